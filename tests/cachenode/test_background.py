"""Work in the background goes on after an exception that nobody expected, and the exception is counted."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kvtide_cachenode.access import reloading
from kvtide_cachenode.access.reloading import Watched, keep_fresh
from kvtide_cachenode.cluster.handover import plan_handover
from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.contract.messages import CapacityRequest, Desired
from kvtide_cachenode.control import opening
from kvtide_cachenode.control.desired import DesiredState
from kvtide_cachenode.control.opening import keep_up
from kvtide_cachenode.control.resize import Resizer
from kvtide_cachenode.control.state import StateFile
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers import membership
from kvtide_cachenode.peers.membership import Membership
from kvtide_cachenode.peers.slot_mover import SlotMover
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process import background
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.serve import server
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store
from kvtide_cachenode.store.ssd.tasks import Tasks

MI = 1024 * 1024


class FailsOnce:
    """Stands in for a method: raises the first time, does what that does from then on, and counts."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original
        self.calls = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args: self(instance, *args)

    def __call__(self, *args: object) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise ZeroDivisionError("injected")
        return self._original(*args)


class Running:
    """A node whose parts run in the background, with a peer that is not there."""

    def __init__(self, folder: Path) -> None:
        self.node = Node(Store(16 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
        self.desired = DesiredState(self.node, StateFile(None))
        self.watched = Watched("users", [folder / "users"], self.node.users.__class__)
        self.data = DataServer(self.node)
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        failures = self.node.failures
        self.tasks = [
            asyncio.create_task(keep_up(self.node.store, failures)),
            asyncio.create_task(keep_fresh([self.watched], failures)),
        ]
        self.data.start("127.0.0.1", 0)
        me, other = Member(self.node.node_id, "127.0.0.1", 1, MI), Member("0" * 40, "127.0.0.1", 2, MI)
        topology = first_topology([me, other])
        for number in range(100):
            self.node.store.put(b"key:%d" % number, bytes(100_000))
        capacity = CapacityRequest(dram=MI)
        await self.desired.put(Desired(1, 1, capacity, topology=topology))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.desired.stop()
        await self.data.stop()
        await self.node.cluster.stop()
        self.node.store.check()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (server, "SWEEP_S"),
        (opening, "UPKEEP_S"),
        (reloading, "LOOK_S"),
        (membership, "POLL_S"),
        (background, "RETRY_S"),
    ):
        monkeypatch.setattr(module, name, 0.01)


PARTS: dict[str, tuple[type, str]] = {
    "sweep": (DataServer, "_sweep"),
    "upkeep": (Store, "maintain"),
    "reload users": (Watched, "look"),
    "poll": (Membership, "_ask_all"),
    "delete": (Membership, "_sweep"),
    "resize of dram": (Resizer, "_shrink_dram"),
    "desired": (DesiredState, "_applied_when_resized"),
}


@pytest.mark.parametrize("where", PARTS)
async def test_what_fails_once_runs_again_and_is_counted(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    part, name = PARTS[where]
    failing = FailsOnce(vars(part)[name])
    monkeypatch.setattr(part, name, failing)
    running = Running(tmp_path)
    await running.start()
    try:
        async with asyncio.timeout(120):
            while failing.calls < 2:
                await asyncio.sleep(0.01)
            while running.desired.applied is None:
                await asyncio.sleep(0.01)
    finally:
        await running.stop()
    assert running.node.failures.total == {where: 1}
    assert running.node.store.used_bytes <= MI


async def test_a_slot_move_that_fails_goes_on(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = FailsOnce(SlotMover._queues)
    monkeypatch.setattr(SlotMover, "_queues", failing)
    node = Node(Store(16 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    me, other = Member(node.node_id, "127.0.0.1", 1, MI), Member("0" * 40, "127.0.0.1", 2, MI)
    before = first_topology([me])
    node.cluster.adopt(plan_handover(before, first_topology([me, other])).moving)
    try:
        async with asyncio.timeout(120):
            while not node.cluster.emptied:
                await asyncio.sleep(0.01)
    finally:
        await node.cluster.stop()
    assert node.failures.total == {"move": 1}


async def test_what_nobody_waits_for_is_caught_by_the_net() -> None:
    failures, loop = Failures(), asyncio.get_running_loop()
    background.net(loop, failures)

    async def fails() -> None:
        raise ZeroDivisionError("injected")

    def fails_too() -> None:
        raise ZeroDivisionError("injected")

    tasks = Tasks()
    forgotten: Awaitable[None] | None = tasks.start(fails())
    await tasks.settle(10)
    loop.call_soon(fails_too)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del forgotten
    gc.collect()
    assert failures.total == {"store task": 1, background.LOOP: 1}
