"""The machine's clock is set forward or back by hours: nothing ends early, nothing lasts for hours."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.cachenode.raw_client import talk, until

from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.control.opening import StoreOptions, open_store
from kvtide_cachenode.control.state import StateFile
from kvtide_cachenode.process.clock import steady_clock
from kvtide_cachenode.store import SsdLog, TieredStore
from kvtide_cachenode.store.ssd import Stored

MI = 1024 * 1024
HOURS_S = 10 * 3600.0
TTL_S = 3600.0
steps = pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S], ids=["forward", "back"])


def step(monkeypatch: Any, step_s: float) -> None:
    """Set the machine's clock."""
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + step_s)


def test_steady_time_goes_on_evenly() -> None:
    wall_s, even_s = 1_000_000.0, 5.0
    clock = steady_clock(lambda: wall_s, lambda: even_s)
    assert clock() == wall_s
    wall_s, even_s = wall_s - HOURS_S, even_s + 2.0
    assert clock() == 1_000_002.0


@steps
async def test_requests_under_way_neither_end_nor_stay(served: Any, monkeypatch: Any, step_s: float) -> None:
    node = served.node
    ends: list[float] = []
    monkeypatch.setattr(node.inference, "end_idle", ends.append)
    async with talk(served.port) as (reader, writer):
        writer.write(b"GET a\r\n")
        await reader.readline()
        (session,) = node.sessions.values()
        before_s = session.now_s
        step(monkeypatch, step_s)
        writer.write(b"GET b\r\n")
        await reader.readline()
        assert 0 <= session.now_s - before_s < TTL_S
        ends.clear()
        await until(lambda: bool(ends))  # the server's sweep
        assert 0 <= ends[0] - before_s < TTL_S
    began_ms = int(1e3 * before_s)
    node._infer(Inferred(began_ms, [1], 0, began_ms))
    line = node.trace._lines[-1]
    assert abs(line.timestamp - began_ms - 1e3 * step_s) < 1e3 * TTL_S, "lines tell the machine's time"
    assert line.stored_at == line.timestamp


@steps
async def test_an_ssd_tier_keeps_its_idle_times(tmp_path: Path, monkeypatch: Any, step_s: float) -> None:
    store = await open_store(StoreOptions(8 * MI, "lru", 64 * MI, tmp_path), StateFile(None))
    assert isinstance(store, TieredStore)
    store.set_ttl({}, TTL_S)
    assert isinstance(await store.log.put(b"key", memoryview(bytes(5000)), 0), Stored)
    used_at_s = store.log._index.used_at_s[0]
    step(monkeypatch, step_s)
    assert store.log.contains(b"key")
    assert store.log.touch(b"key")
    assert 0 <= store.log._index.used_at_s[0] - used_at_s < TTL_S
    await store.maintain()
    assert store.exists(b"key")
    await store.close(0.0)


async def test_a_restart_after_the_clock_was_set_back(tmp_path: Path) -> None:
    """What was used "later" than now counts as used now: else it would stay for hours longer."""
    now_s = 1_000_000.0
    log = await SsdLog.open(tmp_path, 64 * MI, lambda: now_s)
    assert isinstance(await log.put(b"key", memoryview(bytes(5000)), 0), Stored)
    await log.close()
    now_s -= HOURS_S
    log = await SsdLog.open(tmp_path, 64 * MI, lambda: now_s)
    log.set_ttl({}, TTL_S)
    assert log.contains(b"key")
    now_s += TTL_S
    assert not log.contains(b"key")
    await log.close()
