"""Faults of the programs around a resize: operator, leader, node and Prometheus; the object is deleted."""

import signal
import time
from typing import Final

import aiohttp

from e2e.engines import engines
from e2e.faulty import FaultyApi
from e2e.in_container import kill
from e2e.kubectl import get, kubectl, until
from e2e.live_cache import MIB, LiveCache, start_cache
from e2e.operator_process import Operator, operator
from e2e.prometheus import prometheus
from e2e.resize_faults import filled, kept, outcome
from e2e.scenarios import Place, own_namespace, report
from e2e.test_process import leads

AWAY_S: Final = 20.0
"""A Lease of 15 s ends meanwhile."""


async def deleted(place: Place) -> None:
    """The user deletes the object in the middle of a resize."""
    cache = await start_cache(place.namespace, place.image, name="deleted")
    await cache.resize("512Mi")
    await cache.asked_for(more_than=512 * MIB)
    began_s = time.monotonic()
    await kubectl("-n", cache.namespace, "delete", "tieredcache", cache.name, "--wait=false")
    await until("the children to be gone", cache.gone, 60)
    report("object deleted: until its children are gone", began_s)


async def node_killed(place: Place) -> None:
    """SIGKILL to one of two nodes: its entries are lost, those of the other are not."""
    cache = await start_cache(place.namespace, place.image, name="killed", nodes=2)
    await filled(cache)
    first, second = await cache.nodes()
    others = (await first.status()).tiers["dram"].entries
    began_s = time.monotonic()
    await cache.resize("384Mi")
    await cache.asked_for(more_than=300 * MIB)
    await kill(second)
    await cache.settled(384 * MIB, 150)
    report("node killed: until at rest", began_s)
    assert "in effect" in await outcome(cache)
    await cache.check_sizes(384 * MIB, restarts=1)
    await kept(cache, others)


async def operator_killed(place: Place) -> None:
    """SIGKILL in the middle of a grow and of a shrink; the next one goes on, and the third finds no cache."""
    async with own_namespace(place, "operator-killed") as (folder, namespace):
        async with operator(folder, namespace) as first:
            cache = await start_cache(namespace, place.image, nodes=2)
            await filled(cache)
            await cache.resize("384Mi")
            await cache.asked_for(more_than=300 * MIB)
            await first.kill()
        began_s = time.monotonic()
        async with operator(folder, namespace) as second:
            await cache.settled(384 * MIB, 60)
            report("operator killed in a grow: until at rest, with the old Lease's end", began_s)
            assert "in effect" in await outcome(cache)
            await cache.check_sizes(384 * MIB)
            await kept(cache)
            await cache.resize("128Mi")
            await until("a node to shrink", lambda: has_shrunk(cache, 64 * MIB), 30)
            await second.kill()
        began_s = time.monotonic()
        async with operator(folder, namespace) as third:
            await cache.settled(128 * MIB, 60)
            report("operator killed in a shrink: until at rest, with the old Lease's end", began_s)
            await cache.check_sizes(128 * MIB)
            await kept(cache)
            await cache.resize("512Mi")
            await cache.asked_for(more_than=400 * MIB)
            await third.kill()
        began_s = time.monotonic()
        await kubectl("-n", namespace, "delete", "tieredcache", cache.name)
        await until("the children to be gone", cache.gone, 60)
        report("operator killed, object deleted: until its children are gone", began_s)


async def leader_lost(place: Place) -> None:
    """A leader that stands still in the middle of a resize, and wakes up when another one leads."""
    async with (
        own_namespace(place, "leader-lost") as (folder, namespace),
        operator(folder, namespace, identity="one") as one,
        operator(folder, namespace, identity="two") as two,
    ):
        cache = await start_cache(namespace, place.image, nodes=2)
        await filled(cache)
        before, lease = await cache.pods(), await get("lease", "kvtide-operator", namespace)
        await cache.resize("384Mi")
        await cache.asked_for(more_than=300 * MIB)
        one.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        await cache.resize("448Mi")
        await until("the second to lead", lambda: leads(two), 40)
        report("leader stands still: until the other leads", began_s)
        await cache.settled(448 * MIB, 60)
        report("leader lost in a grow: until at rest", began_s)
        one.process.send_signal(signal.SIGCONT)
        await cache.resize("160Mi")
        await cache.settled(160 * MIB, 60)
        await until("the first to see that it does not lead", lambda: has_given_up(one), 30)
        await cache.check_sizes(160 * MIB)
        await kept(cache)
        now = await get("lease", "kvtide-operator", namespace)
        assert now["spec"]["leaseTransitions"] == lease["spec"]["leaseTransitions"] + 1
        # A pod's generation counts the changes of its spec: to 384, 448 and 160 MiB, the first of which the
        # leader may not have come to.
        for pod, earlier in zip(await cache.pods(), before, strict=True):
            changes = pod["metadata"]["generation"] - earlier["metadata"]["generation"]
            assert 2 <= changes <= 3
        for node in await cache.nodes():
            desired = (await node.status()).desired
            assert desired is not None
            assert desired.term == now["spec"]["leaseTransitions"]


async def api_server_away(place: Place) -> None:
    """The API server is away in the middle of a resize, for longer than a Lease lasts."""
    async with own_namespace(place, "api-away") as (folder, namespace), FaultyApi() as proxy:
        kubeconfig = proxy.write_kubeconfig(folder / "kubeconfig")
        async with operator(folder, namespace, kubeconfig=kubeconfig):
            cache = await start_cache(namespace, place.image, nodes=2)
            await filled(cache)
            await cache.resize("384Mi")
            await cache.asked_for(more_than=300 * MIB)
            await proxy.go_away(AWAY_S)
            began_s = time.monotonic()
            await cache.settled(384 * MIB, 90)
            report(f"API server away for {AWAY_S:.0f} s in a grow: until at rest, once it is back", began_s)
            assert "in effect" in await outcome(cache)
            await cache.check_sizes(384 * MIB)
            await kept(cache)


async def prometheus_down(place: Place) -> None:
    """Without metrics a resize goes on to its end, and nothing else moves; the status says why."""
    scaling = {"mode": "Auto", "interval": "5s", "window": "1m"}
    async with (
        own_namespace(place, "prometheus-down") as (folder, namespace),
        engines() as engine,
        prometheus(folder, namespace, engine.url) as running,
        operator(folder, namespace),
    ):
        metrics = {"prometheus": {"url": running.url}, "selector": {"model_name": "e2e"}}
        cache = await start_cache(namespace, place.image, more={"metrics": metrics, "scaling": scaling})
        await filled(cache)
        await until("metrics", lambda: has_metrics(cache, "True"), 60)
        tiers = (await cache.read())["spec"]["tiers"]
        tiers[0]["capacity"] |= {"initial": "256Mi", "min": "256Mi"}
        began_s = time.monotonic()
        await cache.edit({"tiers": tiers})
        await running.kill()
        await cache.settled(256 * MIB, 60)
        report("Prometheus down: the resize under way is at its end", began_s)
        await until("the status to say so", lambda: has_metrics(cache, "False"), 60)
        reasons = [one["reason"] for one in (await cache.status())["decisions"]]
        sentence = next(reason for reason in reasons if reason.startswith("keeps all sizes"))
        report(f"Prometheus down: {sentence}", began_s)
        await cache.check_sizes(256 * MIB)
        await kept(cache)


async def has_shrunk(cache: LiveCache, at_most_bytes: int) -> bool:
    """Whether a node is under its new size; its pod may not be yet."""
    statuses = [await node.status() for node in await cache.nodes()]
    return any(said.tiers["dram"].capacity_bytes <= at_most_bytes for said in statuses)


async def has_given_up(running: Operator) -> bool:
    """Whether an operator has ended, or knows that it does not lead."""
    try:
        return running.process.returncode is not None or not await leads(running)
    except aiohttp.ClientError:
        return False


async def has_metrics(cache: LiveCache, status: str) -> bool:
    """Whether the condition MetricsAvailable has this status."""
    return (await cache.condition("MetricsAvailable")).get("status") == status
