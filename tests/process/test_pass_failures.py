"""Any call of a pass fails in any way: status, an Event and a metric say it, and the next pass recovers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.events import Events
from kvtide_operator.act.kubernetes.execute import Executor
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.reconcile.cache import Hands, LiveCache
from kvtide_operator.reconcile.metrics import ReconcileMetrics
from kvtide_operator.reconcile.turns import Turns
from kvtide_operator.world.kinds import CHILD_KINDS, OWN_KINDS, TIER_CLASS, TIERED_CACHE, CacheKey

MALFORMED: tuple[int, dict[str, str]] = (200, {})
NO_FAULT: tuple[int, dict[str, str]] = (0, {})
FAULTS = {str(code): (code, {}) for code in (403, 404, 409, 422, 429, 500)} | {
    "no answer": None,
    "malformed": MALFORMED,
}
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

    def __init__(self, server: Any, api: KubernetesApi) -> None:
        self.server = server
        self.registry = CollectorRegistry()
        self.store = ObjectStore((*OWN_KINDS, *CHILD_KINDS), lambda _: None)
        self.store.put(TIER_CLASS, server.put("tierclasses", CLASS))
        self.store.put(TIERED_CACHE, server.put("tieredcaches", CACHE))
        executor = Executor(api, live=self.store.get, seen=self.store.put)
        hands = Hands(api, executor, Events(api, "me"), self.store, "kvtide", 1)
        self.turns = Turns(LiveCache(KEY, hands), ReconcileMetrics(self.registry))

    async def take(self) -> None:
        await self.turns.take_pass()

    def stalled(self) -> dict[str, str]:
        (cache,) = self.server.of("tieredcaches")
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


@pytest.fixture
async def new_turn(server: Any, new_api: Callable[..., KubernetesApi]) -> AsyncIterator[Callable[[], Turn]]:
    made: list[Turn] = []

    def make() -> Turn:
        made.append(Turn(server, new_api(attempts=1)))
        return made[-1]

    yield make
    await asyncio.gather(*(turn.turns.cache.close() for turn in made))


async def calls_of_a_new_cache(server: Any, turn: Turn) -> list[tuple[str, str]]:
    await turn.take()
    return list(server.requests)


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_fails_it_is_said_and_the_next_pass_recovers(
    fault: str, server: Any, new_turn: Callable[[], Turn]
) -> None:
    calls = await calls_of_a_new_cache(server, new_turn())
    assert len(calls) >= 8, calls
    for number in range(len(calls)):
        server.objects.clear()
        server.requests.clear()
        turn = new_turn()
        server.faults.extend([*[NO_FAULT] * number, FAULTS[fault]])
        await turn.take()
        server.faults.clear()
        verb, path = server.requests[number]
        what = f"{verb} {path} with {fault}: {turn.stalled()}, {turn.warnings()}"
        # A conflict is news of somebody else's write, which the next pass sees; 404 on the Secret makes one.
        harmless = fault == "409" or (fault == "404" and verb == "GET") or "/events" in path
        if not harmless:
            assert turn.failures() >= 1, what
            assert len(turn.warnings()) == 1, what
            assert path in turn.warnings()[0], what
            assert turn.stalled()["status"] == "True", what
            assert path in turn.stalled()["message"], what
        for _ in range(3):
            await turn.take()
        assert turn.stalled()["status"] == "False", what
        assert len(server.of("statefulsets")) == 1, what


async def test_an_address_that_is_not_allowed_is_said_and_sizes_are_kept(
    server: Any, new_turn: Callable[[], Turn]
) -> None:
    turn = new_turn()
    spec = CACHE["spec"] | {"history": {"url": "file:///tmp/x"}}
    turn.store.put(TIERED_CACHE, server.put("tieredcaches", CACHE | {"spec": spec}))
    await turn.take()
    (cache,) = server.of("tieredcaches")
    said = {one["type"]: one for one in cache["status"]["conditions"]}
    assert said["PlanCurrent"]["status"] == "False"
    assert "history.url file:///tmp/x is none that this operator's" in said["PlanCurrent"]["message"]
    assert said["Stalled"]["status"] == "False"
    assert len(server.of("statefulsets")) == 1


async def test_a_pass_of_which_nothing_can_be_said_does_not_end_the_passes(
    new_turn: Callable[[], Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a defect")

    turn = new_turn()
    monkeypatch.setattr(LiveCache, "run_pass", broken)
    monkeypatch.setattr(LiveCache, "pass_failed", broken)
    assert await turn.turns.take_pass() == 1
    assert await turn.turns.take_pass() == 2
    assert turn.failures() == 2
