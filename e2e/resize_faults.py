"""Faults of a resize itself: what machine, quota or volume cannot give, and users who change their minds."""

import asyncio
import json
import time
from typing import Any, Final

from e2e.in_container import hog
from e2e.kubectl import apply, kubectl, until
from e2e.live_cache import BLOCK_BYTES, MIB, LiveCache, limit_bytes, ssd_class, ssd_tier, start_cache
from e2e.scenarios import Place, report

ENTRIES: Final = 1200
"""75 MiB, which the caches here can hold at any of their sizes of 128 MiB and more."""
REFUSED_S: Final = 45.0
"""How long a refused shrink is waited for, in which the kubelet tries it three times; in life 300 s."""


async def filled(cache: LiveCache) -> None:
    """Give a cache entries, by whatever node; all of them fit."""
    node = (await cache.nodes())[0]
    await node.fill(ENTRIES, BLOCK_BYTES)
    assert len(await node.keys(ENTRIES)) == ENTRIES


async def kept(cache: LiveCache, at_least: int = ENTRIES) -> None:
    """Check that the entries are still there."""
    assert len(await (await cache.nodes())[0].keys(ENTRIES)) >= at_least


async def held(cache: LiveCache) -> str:
    """The sentence on a node that keeps another size than its share; empty while there is none."""
    return " ".join(
        node["held"]["reason"] for node in (await cache.status()).get("nodes", ()) if "held" in node
    )


async def outcome(cache: LiveCache) -> str:
    """What came of the newest decision that was to change something; empty while nothing has."""
    decisions = (await cache.status()).get("decisions", ())
    return next((str(one.get("outcome", "")) for one in decisions if one["from"] != one["to"]), "")


async def infeasible(place: Place) -> None:
    """More than the machine has: given up after 30 s, and taken up again when the spec asks for less."""
    cache = await start_cache(place.namespace, place.image, name="infeasible", most="1Ti")
    await filled(cache)
    began_s = time.monotonic()
    await cache.resize("512Gi")
    await until("the kubelet to refuse", lambda: is_pending(cache, "Infeasible"), 60)
    report("Infeasible: until the condition says so", began_s)
    sentence = await until("it to be given up", lambda: held(cache), 90)
    assert "512Gi" in sentence or "Infeasible" in sentence, sentence
    await cache.settled(512 << 30, 30)
    report(f"Infeasible: until at rest; held: {sentence}", began_s)
    assert sentence in await outcome(cache)
    await cache.check_sizes(128 * MIB)
    await kept(cache)
    await cache.resize("160Mi")
    began_s = time.monotonic()
    await cache.settled(160 * MIB, 60)
    report("Infeasible: then 160Mi", began_s)
    await cache.check_sizes(160 * MIB)
    await kept(cache)
    assert "in effect" in await outcome(cache)


async def quota(place: Place) -> None:
    """A quota that has room for the node as it is, and for no more: 403."""
    await set_quota(place.other_namespace, "384Mi")
    cache = await start_cache(place.other_namespace, place.image, name="quota")
    await filled(cache)
    began_s = time.monotonic()
    await cache.resize("256Mi")
    sentence = await until("it to be given up", lambda: held(cache), 60)
    assert "exceeded quota" in sentence, sentence
    await cache.settled(256 * MIB, 30)
    report(f"403 of a quota: until at rest; held: {sentence}", began_s)
    assert sentence in await outcome(cache)
    await cache.check_sizes(128 * MIB)
    await kept(cache)
    # What was given up is tried again with the next target, for which there is room.
    await set_quota(place.other_namespace, "1Gi")
    await cache.resize("192Mi")
    await cache.settled(192 * MIB, 60)
    await cache.check_sizes(192 * MIB)
    await kept(cache)


async def volume_refused(place: Place) -> None:
    """A class whose volumes do not grow: the SSD tier stays, DRAM grows."""
    default = json.loads(await kubectl("get", "storageclass", "loop", "-o", "json"))
    storage = f"fixed-{place.namespace}"
    fixed = {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": storage},
        "provisioner": default["provisioner"], "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": False,
    }  # fmt: skip
    await apply(fixed, ssd_class("e2e-ssd-fixed", storage))
    try:
        cache = await start_cache(
            place.namespace, place.image, name="fixed", ssd=ssd_tier("e2e-ssd-fixed", "128Mi")
        )
        await filled(cache)
        began_s = time.monotonic()
        await cache.resize("160Mi", ssd="512Mi")
        sentence = await until("it to be given up", lambda: held(cache), 60)
        assert "ssd-fixed-0" in sentence, sentence
        await cache.settled(160 * MIB, 60)
        report(f"PVC expansion refused: until at rest; held: {sentence}", began_s)
        assert sentence in await outcome(cache)
        await cache.check_sizes(160 * MIB)
        await kept(cache)
    finally:
        await kubectl("delete", "storageclass", storage)


async def shrink_refused(place: Place) -> None:
    """The container's memory is held above the new limit by somebody else: given up as a grow."""
    cache = await start_cache(place.namespace, place.image, name="shrink", dram="384Mi")
    await filled(cache)
    before = limit_of(await cache.pods())
    async with hog((await cache.nodes())[0], 300 * MIB):
        began_s = time.monotonic()
        await cache.resize("96Mi")
        await until("the kubelet to refuse", lambda: is_pending(cache, "Error"), 60)
        sentence = await until("it to be given up", lambda: held(cache), 2 * REFUSED_S + 30)
        await cache.settled(96 * MIB, 60)
        report(f"shrink refused, given up after {REFUSED_S:.0f} s: at rest; held: {sentence}", began_s)
        assert sentence in await outcome(cache)
        assert limit_of(await cache.pods()) == before
        await cache.check_sizes(384 * MIB)
    await kept(cache)
    # Another target is tried at once; now there is nobody who holds memory.
    await cache.resize("128Mi")
    await cache.settled(128 * MIB, 90)
    await cache.check_sizes(128 * MIB)
    await kept(cache)
    assert not await held(cache)


async def edited_again(place: Place) -> None:
    """The user changes the mind while a resize is under way, several times."""
    cache = await start_cache(place.namespace, place.image, name="edited", nodes=2)
    await filled(cache)
    began_s = time.monotonic()
    for size in ("448Mi", "160Mi", "512Mi", "192Mi"):
        await cache.resize(size)
        await asyncio.sleep(0.5)
    await cache.settled(192 * MIB, 60)
    report("spec edited four times: until at rest", began_s)
    assert "in effect" in await outcome(cache)
    await cache.check_sizes(192 * MIB)
    await kept(cache)


async def is_pending(cache: LiveCache, reason: str) -> bool:
    return (await cache.condition("ResizePending")).get("reason") == reason


def limit_of(pods: list[dict[str, Any]]) -> int:
    """The limit that is asked for of the first pod."""
    return limit_bytes(pods[0]["spec"]["containers"][0])


async def set_quota(namespace: str, memory: str) -> None:
    """How much memory the pods of a namespace may ask for together."""
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "memory", "namespace": namespace},
        "spec": {"hard": {"limits.memory": memory}},
    }  # fmt: skip
    await apply(quota)
