"""The operator as a process at a real API server: replicas, what it watches and leaves alone, how it ends."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.faulty import FaultyApi, is_own_write
from e2e.kubectl import apply, get, kubectl, until
from e2e.operator_process import Operator, operator

pytestmark = pytest.mark.timeout(240)

EXIT_S = 10.0
READY_S = 120.0
"""For two cores that do other things, too; on idle ones it takes about 10 s."""


def cache(namespace: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "kvtide.dev/v1alpha1",
        "kind": "TieredCache",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {
            "model": {"name": "meta-llama/Llama-3.1-8B-Instruct"},
            "engine": {
                "kind": "VLLM", "gpuHour": "2.50", "profile": {"source": "Catalogue", "system": "h100_sxm"},
            },
            "tiers": [
                {
                    "name": "dram", "medium": "DRAM", "classes": ["e2e-process-dram"],
                    "capacity": {"initial": "128Mi", "min": "64Mi", "max": "1Gi", "step": "32Mi"},
                }
            ],
            "nodes": {"replicas": {"min": 1}, "template": {"image": image, "imagePullPolicy": "Never"}},
            "objective": {"prefer": "Cost"},
        },
    }  # fmt: skip


TIER_CLASS = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TierClass",
    "metadata": {"name": "e2e-process-dram"},
    "spec": {"medium": "DRAM", "price": {"currency": "USD", "capacity": [{"perGiBHour": "0.005"}]}},
}


async def metric(running: Operator, name: str) -> dict[str, float]:
    """The values of a metric by its labels, as written."""
    async with aiohttp.ClientSession() as http, http.get(f"{running.metrics}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith((name + "{", name + " "))]
    return {label.removeprefix(name): float(value) for label, _, value in found}


async def leads(running: Operator) -> bool:
    return (await metric(running, "kvtide_operator_leader"))[""] == 1.0


async def test_one_of_two_replicas_leads_and_hands_over_when_it_stops(namespace: str, tmp_path: Path) -> None:
    async with operator(tmp_path, namespace, identity="one") as one:
        await until("the first to lead", lambda: leads(one), 30)
        async with operator(tmp_path, namespace, identity="two") as two:
            assert not await leads(two)
            began_s = time.monotonic()
            assert await one.kill(signal.SIGTERM) == 0
            assert time.monotonic() - began_s < EXIT_S
            await until("the second to lead", lambda: leads(two), 5)
            print(f"the second leads {time.monotonic() - began_s:.1f} s after SIGTERM to the first")
            lease = await get("lease", "kvtide-operator", namespace)
            assert lease["spec"]["holderIdentity"].startswith("two_")


async def test_it_watches_its_own_and_leaves_the_users_object_alone(
    namespace: str, node_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply(TIER_CLASS, cache(namespace, node_image))
    before = await get("tieredcache", "chat", namespace)
    async with FaultyApi() as proxy:
        monkeypatch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
        async with operator(tmp_path, namespace):
            monkeypatch.undo()
            await until("the cache to be ready", lambda: is_ready(namespace), READY_S)
            lists = [seen.target for seen in proxy.seen if not seen.writes]
            for resource in ("pods", "statefulsets", "persistentvolumeclaims", "services", "configmaps"):
                asked = [target for target in lists if f"/namespaces/{namespace}/{resource}?" in target]
                assert any("watch=true" in target for target in asked), resource
                assert all("labelSelector=kvtide.dev%2Fcache" in t or "kvtide.dev/cache" in t for t in asked)
            assert not [
                t for t in lists if "/customresourcedefinitions" in t or t.startswith("/api/v1/namespaces?")
            ]
            assert not [t for t in lists if "/secrets?" in t]
            await until("it to have nothing to write", lambda: is_quiet(proxy), 30)
            # A person's kubectl is not a reason to write, and neither is time.
            before_calls = len(proxy.seen)
            await kubectl("-n", namespace, "annotate", "tieredcache", "chat", "note=hello")
            await until("renewals", lambda: renewed(proxy, before_calls), 30)
            assert not [seen for seen in proxy.seen[before_calls:] if is_own_write(seen)]
        now = await get("tieredcache", "chat", namespace)
    assert now["metadata"].pop("annotations") == {"note": "hello"}
    assert "finalizers" not in now["metadata"]
    assert now["spec"] == before["spec"]
    assert now["metadata"]["generation"] == before["metadata"]["generation"]


async def test_a_deleted_cache_takes_its_children_with_it_while_no_operator_runs(
    namespace: str, node_image: str, tmp_path: Path
) -> None:
    await apply(TIER_CLASS, cache(namespace, node_image))
    async with operator(tmp_path, namespace):
        await until("the cache to be ready", lambda: is_ready(namespace), READY_S)
    await kubectl("-n", namespace, "delete", "tieredcache", "chat")
    await until("the children to be gone", lambda: no_children(namespace), READY_S)


async def is_ready(namespace: str) -> bool:
    """Whether the cache serves, nothing is under way, and its first round is over."""
    status = (await get("tieredcache", "chat", namespace)).get("status", {})
    said = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return (
        said.get("Ready") == "True" and said.get("Reconciling") == "False" and bool(status.get("decisions"))
    )


async def is_quiet(proxy: FaultyApi) -> bool:
    """Whether the last three writes were renewals of the Lease, which are 2 s apart."""
    writes = [seen for seen in proxy.seen if seen.writes]
    return not any(is_own_write(seen) for seen in writes[-3:])


async def renewed(proxy: FaultyApi, since: int) -> bool:
    """Whether the Lease was renewed four times since."""
    return len([seen for seen in proxy.seen[since:] if seen.writes and "/leases/" in seen.target]) >= 4


async def no_children(namespace: str) -> bool:
    kinds = "statefulsets,pods,services,configmaps,secrets,poddisruptionbudgets,networkpolicies"
    listed = await kubectl("-n", namespace, "get", kinds, "-l", "kvtide.dev/cache=chat", "-o", "json")
    return not json.loads(listed)["items"]
