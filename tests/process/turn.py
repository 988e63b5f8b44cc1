"""One cache of a controller, a pass at a time, on the small API server."""

import copy
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.events import Events
from kvtide_operator.act.kubernetes.execute import Executor
from kvtide_operator.api.status import LookedAfterBy
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.reconcile.cache import LiveCache
from kvtide_operator.reconcile.hands import Hands
from kvtide_operator.reconcile.leadership import Leaders, Leadership
from kvtide_operator.reconcile.metrics import ReconcileMetrics
from kvtide_operator.reconcile.turns import Turns
from kvtide_operator.world.kinds import CHILD_KINDS, OWN_KINDS, POD, TIER_CLASS, TIERED_CACHE, CacheKey

KEY = CacheKey("default", "chat")
CLASS = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TierClass",
    "metadata": {"name": "dram"},
    "spec": {"medium": "DRAM", "price": {"currency": "USD", "capacity": [{"perGiBHour": "0.003"}]}},
}
CACHE = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TieredCache",
    "metadata": {"name": KEY.name, "namespace": KEY.namespace, "generation": 1},
    "spec": {
        "model": {"name": "m", "kvBytesPerToken": 1024},
        "engine": {"gpuHour": "2", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
        "tiers": [
            {
                "name": "dram",
                "medium": "DRAM",
                "classes": ["dram"],
                "capacity": {"initial": "64Mi", "min": "64Mi", "max": "1Gi"},
            }
        ],
        "nodes": {"replicas": {"min": 1}},
    },
}


class Turn:
    """One cache of a controller, a pass at a time."""

    pod_kind = POD

    def __init__(
        self,
        server: Any,
        api: KubernetesApi,
        name: str = KEY.name,
        tiers: Sequence[dict[str, Any]] = (),
        classes: Sequence[dict[str, Any]] = (),
        release: str = "kvtide",
        term: int = 1,
    ) -> None:
        self.server = server
        self.now_s = 0.0
        self.key = CacheKey(KEY.namespace, name)
        self.registry = CollectorRegistry()
        self.store = ObjectStore((*OWN_KINDS, *CHILD_KINDS), lambda _: None)
        for one in (CLASS, *classes):
            self.store.put(TIER_CLASS, server.put("tierclasses", one))
        made: dict[str, Any] = copy.deepcopy(CACHE)
        made["metadata"]["name"] = name
        made["spec"]["tiers"] += tiers
        there = server.objects.get(("tieredcaches", *self.key))
        self.hear(there or server.put("tieredcaches", made))
        executor = Executor(api, live=self.store.get, seen=self.store.put)
        by = LookedAfterBy(release=release, lease=f"{release}/kvtide-operator")
        self.outgrown: list[int] = []
        leads = Leadership(term, by, Leaders(api, lambda: self.now_s), self.outgrown.append)
        hands = Hands(api, executor, Events(api, "me"), self.store, "kvtide", leads)
        self.turns = Turns(LiveCache(self.key, hands), ReconcileMetrics(self.registry))

    def hear(self, cache: dict[str, Any]) -> None:
        """As the watch tells."""
        self.store.put(TIERED_CACHE, cache)

    def edit(self, spec: dict[str, Any]) -> None:
        """As a user does."""
        live = self.server.objects["tieredcaches", *self.key]
        edited = {**live, "spec": {**live["spec"], **spec}}
        self.store.put(TIERED_CACHE, self.server.put("tieredcaches", edited))

    def pod(self, name: str, of: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, Any]:
        """A pod as the StatefulSet makes it."""
        template = of["spec"]["template"]
        owner = {"kind": "StatefulSet", "name": of["metadata"]["name"], "uid": of["metadata"]["uid"]}
        metadata = {
            **template["metadata"],
            "name": name,
            "namespace": self.key.namespace,
            "ownerReferences": [{**owner, "controller": True}],
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template["spec"],
            "status": status or {},
        }

    async def take(self) -> None:
        await self.turns.take_pass()

    def stalled(self) -> dict[str, str]:
        cache = self.server.objects["tieredcaches", *self.key]
        conditions = {one["type"]: one for one in cache.get("status", {}).get("conditions", ())}
        return conditions.get("Stalled", {"status": "Unknown", "message": ""})

    def warnings(self) -> list[str]:
        return [event["message"] for event in self.server.of("events") if event["type"] == "Warning"]

    def failures(self) -> float:
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "kvtide_operator_failures_total"
        )
