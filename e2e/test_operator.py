"""The operator on real pods: a workload shifts and the pods follow, in place; volumes grow; then silence."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from e2e.engines import documents, engines
from e2e.kubectl import apply, kubectl, until
from e2e.live_cache import BLOCK_BYTES, KINDS, MIB, LiveCache, ssd_class, ssd_tier, start_cache
from e2e.prometheus import prometheus
from e2e.scenarios import Place, Scenario, UnderWay, report, under_way
from kvtide_cachenode.contract.quantity import parse_quantity

RATE_PER_S: Final = 25.0
FEW: Final = 64
"""Documents of 512 KiB, 32 MiB together, for which 96 MiB of DRAM are enough."""
MANY: Final = 320
"""160 MiB, for which they are not."""
MANY_BYTES: Final = 160 * MIB
CALM_S: Final = 30.0
BUSY_S: Final = 110.0
LAST_S: Final = 25.0
"""At the end of it, when the nodes have filled up: their hit ratio is compared with the simulated one."""
SHIFT_LIMIT_S: Final = 60.0
HIT_TOLERANCE: Final = 0.05
"""In absolute terms: of two samples of some hundred requests for documents drawn by chance."""
STEADY_S: Final = 30.0
ENTRIES: Final = 1200
"""75 MiB, of which a part is on SSD while a node is emptied into the others."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(280)]


async def shift(place: Place) -> None:
    """The whole loop: metrics of a real Prometheus, plans, and pods that grow with the workload."""
    async with engines() as engine, prometheus(place.folder, place.namespace, engine.url) as running:
        cache = await start_cache(
            place.namespace,
            place.image,
            dram="96Mi",
            nodes=2,
            more={
                "metrics": {"prometheus": {"url": running.url}, "selector": {"model_name": "e2e"}},
                "objective": {"prefer": "Latency"},
                "scaling": {"mode": "Auto", "interval": "15s", "window": "1m", "maxStep": "100%"},
            },
        )
        nodes = await cache.nodes()
        hosts = [node.ip for node in nodes]
        before = [await node.container() for node in nodes]
        limits = [await node.cgroup_limit_bytes() for node in nodes]
        await engine.play(documents(FEW, rate_per_s=RATE_PER_S, duration_s=CALM_S), hosts)
        assert parse_quantity((await cache.status())["tiers"][0]["desired"]) == 96 * MIB

        began_s = time.monotonic()
        busy = documents(MANY, rate_per_s=RATE_PER_S, duration_s=BUSY_S, first=FEW)
        played = asyncio.create_task(engine.play(busy, hosts))
        await until("a larger size to be in effect", lambda: grown(cache, 104 * MIB), 90)
        report("workload shift: until pods are resized", began_s)
        assert time.monotonic() - began_s < SHIFT_LIMIT_S
        await until("a size for all documents to be in effect", lambda: grown(cache, MANY_BYTES), 90)
        report("workload shift: until there is room for all of it", began_s)
        await asyncio.sleep(began_s + BUSY_S - LAST_S - time.monotonic())
        hit, asked = engine.blocks
        await played
        assert (played.result().wrong_bytes, played.result().errors) == (0, 0)
        hit, asked = engine.blocks[0] - hit, engine.blocks[1] - asked
        await check_loop(cache, hit / asked)

        status = await cache.status()
        await cache.check_sizes(parse_quantity(status["tiers"][0]["desired"]))
        for node, container, limit in zip(nodes, before, limits, strict=True):
            now = await node.container()
            assert (now.container_id, now.restarts) == (container.container_id, 0)
            assert await node.cgroup_limit_bytes() > limit
        await check_traces_of_ours(cache)


async def check_loop(cache: LiveCache, hit_ratio: float) -> None:
    """What the status says, against what was measured lately."""
    status = await cache.status()
    assert (await cache.condition("MetricsAvailable"))["status"] == "True"
    moves = [one for one in status["decisions"] if one["action"] == "Grow"]
    assert moves
    assert all(one["outcome"].startswith("in effect") for one in moves)
    simulated = float(status["plan"]["baseline"]["hitRatio"])
    print(f"\n[figure] hit ratio of the last {LAST_S:.0f} s: {hit_ratio:.3f}; simulated: {simulated:.3f}")
    print(f"[figure] prediction error: {status['plan']['predictionError']}; {moves[0]['reason']}")
    assert abs(hit_ratio - simulated) <= HIT_TOLERANCE
    plans = json.loads(await kubectl("-n", cache.namespace, "get", "cacheplans", "-o", "json"))["items"]
    assert {plan["spec"]["cacheRef"]["name"] for plan in plans} == {cache.name}
    assert {plan["status"]["phase"] for plan in plans} <= {"Applied", "Applying", "Superseded"}


async def check_traces_of_ours(cache: LiveCache) -> None:
    """The operator has left nothing on what the user wrote but its status."""
    raw = json.loads(
        await kubectl(
            "-n", cache.namespace, "get", "tieredcache", cache.name, "-o", "json", "--show-managed-fields"
        )
    )
    metadata = raw["metadata"]
    assert not {"annotations", "finalizers", "labels", "ownerReferences"} & metadata.keys()
    ours = [entry for entry in metadata["managedFields"] if entry["manager"] == "kvtide"]
    assert [entry.get("subresource") for entry in ours] == ["status"]
    assert ours[0]["fieldsV1"].keys() == {"f:status"}
    others = {entry["manager"] for entry in metadata["managedFields"]} - {"kvtide"}
    assert others <= {"e2e", "kubectl-patch"}


async def sizes(place: Place) -> None:
    """A grow, a shrink and a volume's growth by the user's edits; then nothing is written any more."""
    await apply(ssd_class("e2e-ssd", "loop"))
    cache = await start_cache(
        place.other_namespace, place.image, name="sizes", nodes=2, ssd=ssd_tier("e2e-ssd", "256Mi"),
        more={"scaling": {"mode": "Manual", "interval": "15s"}},
    )  # fmt: skip
    await cache.check_sizes(128 * MIB)
    node = (await cache.nodes())[0]
    await node.fill(1600, BLOCK_BYTES)
    for size, bytes_ in (("320Mi", 320 * MIB), ("128Mi", 128 * MIB)):
        began_s = time.monotonic()
        await cache.resize(size)
        await cache.settled(bytes_, 60)
        report(f"DRAM of two nodes to {size}", began_s)
        await cache.check_sizes(bytes_)
        assert len(await node.keys(1600)) == 1600
    began_s = time.monotonic()
    await cache.edit({"nodes": {"template": {"cpu": "35m"}}})
    await cache.settled(128 * MIB, 60)
    report("CPU request of two nodes from 20m to 35m", began_s)
    for pod in await cache.pods():
        (container,) = pod["status"]["containerStatuses"]
        assert (container["resources"]["requests"]["cpu"], container["restartCount"]) == ("35m", 0)
    began_s = time.monotonic()
    await cache.resize("128Mi", ssd="640Mi")
    await cache.settled(128 * MIB, 200)
    report("SSD of two nodes from 256Mi to 640Mi, volumes grown", began_s)
    for each in await cache.nodes():
        ssd = (await each.status()).tiers["ssd"]
        assert ssd.capacity_bytes == 320 * MIB <= ssd.max_bytes
        assert (await each.container()).restarts == 0
    await until("the round of now to be over", lambda: has_decided(cache), 30)
    before, status = await versions(cache), await cache.status()
    await asyncio.sleep(STEADY_S)
    assert await cache.status() == status
    assert await versions(cache) == before
    assert len(await node.keys(1600)) == 1600
    print(f"\n[figure] {len(before)} objects unchanged for {STEADY_S:.0f} s")
    await check_traces_of_ours(cache)


async def class_changed(place: Place) -> None:
    """Another class of SSD: every volume is replaced, one node at a time, and no entry is lost."""
    default = json.loads(await kubectl("get", "storageclass", "loop", "-o", "json"))
    storage = f"other-{place.namespace}"
    other = {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": storage},
        "provisioner": default["provisioner"], "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }  # fmt: skip
    await apply(other, ssd_class("e2e-ssd", "loop"), ssd_class("e2e-ssd-other", storage))
    try:
        cache = await start_cache(
            place.namespace, place.image, name="class", nodes=2, ssd=ssd_tier("e2e-ssd", "256Mi")
        )
        node = (await cache.nodes())[0]
        await node.fill(ENTRIES, BLOCK_BYTES)
        tiers = (await cache.read())["spec"]["tiers"]
        tiers[1]["classes"] = ["e2e-ssd-other", "e2e-ssd"]
        began_s = time.monotonic()
        await cache.edit({"tiers": tiers})
        await cache.settled(128 * MIB, 240)
        report("SSD of another class: two volumes replaced", began_s)
        listed = json.loads(
            await kubectl(
                "-n", cache.namespace, "get", "pvc", "-l", f"kvtide.dev/cache={cache.name}", "-o", "json"
            )
        )
        assert [claim["spec"]["storageClassName"] for claim in listed["items"]] == [storage, storage]
        status = await cache.status()
        assert status["tiers"][1]["class"] == "e2e-ssd-other"
        assert len(await (await cache.nodes())[0].keys(ENTRIES)) == ENTRIES
        for each in await cache.nodes():
            assert (await each.status()).tiers["ssd"].capacity_bytes == 128 * MIB
    finally:
        await kubectl("delete", "storageclass", storage)


async def grown(cache: LiveCache, at_least_bytes: int) -> bool:
    """Whether the nodes have at least this size and nothing is under way."""
    status = await cache.status()
    actual = parse_quantity(status["tiers"][0].get("actual", "0"))
    said = {one["type"]: one["status"] for one in status["conditions"]}
    return actual >= at_least_bytes and said["Reconciling"] == "False"


async def has_decided(cache: LiveCache) -> bool:
    """Whether the newest decision is that of a round after the last edit."""
    decisions = (await cache.status()).get("decisions", ())
    return bool(decisions) and decisions[0]["action"] == "Hold"


async def versions(cache: LiveCache) -> dict[tuple[str, str], str]:
    """The version of the cache and of everything that belongs to it, by kind and name."""
    kinds = f"{KINDS},persistentvolumeclaims,cacheplans"
    listed = await kubectl(
        "-n", cache.namespace, "get", kinds, "-l", f"kvtide.dev/cache={cache.name}", "-o", "json"
    )
    found: list[dict[str, Any]] = [*json.loads(listed)["items"], await cache.read()]
    return {(one["kind"], one["metadata"]["name"]): one["metadata"]["resourceVersion"] for one in found}


SCENARIOS: Final = (shift, sizes, class_changed)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def playing(
    request: pytest.FixtureRequest,
    node_image: str,
    definitions: None,
    compiled: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[UnderWay]:
    folder = tmp_path_factory.mktemp("operator")
    async with under_way(SCENARIOS, request, node_image, folder) as tasks:
        yield tasks


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_operator(playing: UnderWay, scenario: Scenario) -> None:
    await playing[scenario]
