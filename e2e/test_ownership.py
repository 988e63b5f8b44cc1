"""Nothing of others is touched by a whole operator beside real controllers; its own goes with the cache."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.kubectl import apply, get, kubectl, until
from e2e.live_cache import MIB, LiveCache, ssd_class, ssd_tier, start_cache
from e2e.operator_process import operator

pytestmark = pytest.mark.timeout(400)

GONE_S: Final = 90.0


def theirs(namespace: str) -> list[dict[str, Any]]:
    """Objects of somebody else under names that a cache `vllm` would use."""
    selector = {"app": "theirs"}

    def named(api_version: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}

    spec = {"selector": selector, "ports": [{"port": 80}]}
    return [
        named("v1", "Service", "vllm", spec=spec),
        named("v1", "Service", "vllm-peers", spec=spec),
        named("v1", "ConfigMap", "vllm-connection", data={"theirs": "yes"}),
        named("policy/v1", "PodDisruptionBudget", "vllm", spec={"selector": {"matchLabels": selector}}),
        named(
            "networking.k8s.io/v1", "NetworkPolicy", "vllm", spec={"podSelector": {"matchLabels": selector}}
        ),
    ]


def lasting(raw: dict[str, Any]) -> dict[str, Any]:
    """All of an object but what its controller says of it from time to time."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "resourceVersion"}
    return {**raw, "metadata": metadata, "status": None}


async def test_what_others_have_under_our_names_outlives_the_cache(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    async def now() -> list[dict[str, Any]]:
        return [lasting(await get(one["kind"], one["metadata"]["name"], namespace)) for one in made]

    made = theirs(namespace)
    await apply(*made)
    before = await now()
    async with operator(tmp_path, namespace):
        cache = await start_cache(namespace, node_image, name="vllm", settled=False)

        async def stalled() -> bool:
            said = await cache.condition("Stalled")
            names = [f"{one['kind']} {one['metadata']['name']} was there before" for one in made]
            return said.get("status") == "True" and all(name in said["message"] for name in names)

        await until("the cache to say whose names it has", stalled, 60)
        await until("its node to run all the same", lambda: ready(cache), 60)
        assert await now() == before
        await kubectl("-n", namespace, "delete", "tieredcache", "vllm")
        await until("the cache's own to be gone", lambda: nothing_left(cache), GONE_S)
        assert await now() == before


async def test_an_ssd_is_added_to_a_running_cache_and_removed_and_nothing_stays(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    await apply(ssd_class("e2e-ssd", "loop"))
    async with operator(tmp_path, namespace):
        cache = await start_cache(namespace, node_image)
        (node,) = await cache.nodes()
        await node.fill(400, 64 * 1024)
        (dram,) = (await cache.read())["spec"]["tiers"]
        await cache.edit({"tiers": [dram, ssd_tier("e2e-ssd", "256Mi")]})
        await cache.settled(128 * MIB, 200)
        assert len(await claims(cache)) == 1
        (node,) = await cache.nodes()
        assert (await node.status()).tiers["ssd"].capacity_bytes == 256 * MIB
        assert len(await node.keys(400)) == 400, "what the new shape holds was kept"

        await cache.edit({"tiers": [dram]})
        await cache.settled(128 * MIB, 200)
        await until("the volumes to be gone", lambda: none(claims(cache)), GONE_S)
        (node,) = await cache.nodes()
        assert "ssd" not in (await node.status()).tiers

        # Once more, and the cache is deleted before the nodes have let go of the volumes.
        await cache.edit({"tiers": [dram, ssd_tier("e2e-ssd", "256Mi")]})
        await cache.settled(128 * MIB, 200)
        await cache.edit({"tiers": [dram]})
        await kubectl("-n", namespace, "delete", "tieredcache", cache.name)
        await until("the cache and its volumes to be gone", lambda: nothing_left(cache), GONE_S)


async def ready(cache: LiveCache) -> bool:
    return (await cache.condition("Ready")).get("status") == "True"


async def claims(cache: LiveCache) -> list[str]:
    return (await kubectl("-n", cache.namespace, "get", "pvc", "-o", "name")).split()


async def none(found: Any) -> bool:
    return not await found


async def nothing_left(cache: LiveCache) -> bool:
    """Whether nothing of the cache is there, in whatever kind."""
    kinds = (
        "statefulsets,pods,services,configmaps,secrets,poddisruptionbudgets,networkpolicies,pvc,cacheplans"
    )
    selector = f"--selector=kvtide.dev/cache={cache.name}"
    listed = await kubectl("-n", cache.namespace, "get", kinds, selector, "-o", "json")
    return not json.loads(listed)["items"] and await cache.gone()
