"""The node's image under a real kubelet: sizes change in place, and a kill at any step leads to no other end.

A grow is: larger container, confirmed, then larger tier. A shrink is the reverse. The node holds entries up
to its capacity all the time, so that a step too early would end in the kernel's or the kubelet's refusal.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import pytest

from e2e.kubectl import until
from e2e.node_pod import LIMIT_S, NodePod, start_node
from kvtide_cachenode.contract.client import NodeUnreachable
from kvtide_cachenode.contract.sizing import capacity_for, limit_for

MIB: Final = 1 << 20
SMALL: Final = 32 * MIB
LARGE: Final = 512 * MIB
ENTRY: Final = MIB
TELL_S: Final = 60.0

Moment = Callable[[str], Awaitable[None]]

pytestmark = pytest.mark.timeout(3 * LIMIT_S)


async def nothing_happens(step: str) -> None:
    pass


async def tell(pod: NodePod, capacity_bytes: int) -> None:
    """Hand over a capacity until the node is under it; a node that is being started again is asked again."""

    async def holds() -> bool:
        with suppress(NodeUnreachable):
            async with pod.admin() as client:
                status = await client.set_capacity(dram_bytes=capacity_bytes)
                return status.resize is None and status.tiers["dram"].resident_bytes <= capacity_bytes
        return False

    await until(f"{pod.name} to hold {capacity_bytes} bytes", holds, TELL_S)


async def grow(pod: NodePod, capacity_bytes: int, happens: Moment = nothing_happens) -> None:
    limit_bytes = limit_for(capacity_bytes)
    await happens("before")
    await pod.resize(limit_bytes)
    await happens("limit asked for")
    await pod.resized(limit_bytes)
    await happens("limit confirmed")
    await asyncio.gather(tell(pod, capacity_bytes), happens("node being told"))
    await happens("node told")


async def shrink(pod: NodePod, capacity_bytes: int, happens: Moment = nothing_happens) -> None:
    limit_bytes = limit_for(capacity_bytes)
    await happens("before")
    await asyncio.gather(tell(pod, capacity_bytes), happens("node being told"))
    await happens("node told")
    await pod.resize(limit_bytes)
    await happens("limit asked for")
    await pod.resized(limit_bytes)
    await happens("limit confirmed")


STEPS: Final = ("before", "limit asked for", "limit confirmed", "node being told", "node told")


async def sizes_agree(pod: NodePod, capacity_bytes: int) -> None:
    """What the node, the kubelet and the kernel say is one and the same size, and the node lives at it."""
    container, status = await pod.container(), await pod.status()
    assert status.tiers["dram"].capacity_bytes == capacity_bytes
    assert container.limit_bytes == limit_for(capacity_bytes)
    assert await pod.cgroup_limit_bytes() == limit_for(capacity_bytes)
    await pod.fill(2 * capacity_bytes // ENTRY, ENTRY)
    after = await pod.container()
    assert after.restarts == container.restarts
    assert "OOMKilled" not in after.reasons


async def test_sizes_change_in_place(namespace: str, node_image: str) -> None:
    pod = await start_node(namespace, "node", node_image, limit_bytes=limit_for(SMALL))
    first = await pod.container()
    small, large = SMALL // ENTRY - 2, LARGE // ENTRY - 16
    assert (await pod.status()).tiers["dram"].capacity_bytes == capacity_for(limit_for(SMALL))
    await pod.fill(small, ENTRY)

    await grow(pod, LARGE)
    assert await pod.keys(small) == set(range(small)), "a grow loses nothing"
    await pod.fill(large, ENTRY)
    assert await pod.keys(large) == set(range(large))

    await shrink(pod, SMALL)
    kept = await pod.keys(large)
    assert kept == set(range(large - len(kept), large)), "the least recently used go"
    assert len(kept) * ENTRY > SMALL * 3 // 4, "what the new size can hold stays"

    await sizes_agree(pod, SMALL)
    last = await pod.container()
    assert (last.restarts, last.container_id) == (0, first.container_id)


@pytest.mark.parametrize(("change", "before", "after"), [(grow, SMALL, LARGE), (shrink, LARGE, SMALL)])
async def test_killed_at_any_step(
    namespace: str,
    node_image: str,
    change: Callable[[NodePod, int, Moment], Awaitable[None]],
    before: int,
    after: int,
) -> None:
    async def killed_at(chosen: str) -> None:
        name = f"killed-{STEPS.index(chosen)}"
        pod = await start_node(namespace, name, node_image, limit_bytes=limit_for(before))
        await tell(pod, before)
        await pod.fill(2 * before // ENTRY, ENTRY)

        async def happens(step: str) -> None:
            if step == chosen:
                await pod.kill()

        await change(pod, after, happens)
        assert (await pod.container()).restarts == 1
        await sizes_agree(pod, after)

    async with asyncio.timeout(2 * LIMIT_S), asyncio.TaskGroup() as group:
        for step in STEPS:
            group.create_task(killed_at(step))
