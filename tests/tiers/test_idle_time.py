"""The idle time of a copy on the SSD counts from when its entry left DRAM."""

import asyncio
from pathlib import Path

from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import SsdLog, TieredStore

MI = 1024 * 1024
VALUE = bytes(64 * 1024)
TTL_S = 10.0


async def test_the_idle_time_begins_when_an_entry_leaves_dram(tmp_path: Path) -> None:
    now_s = 1_000_000.0
    log = await SsdLog.open(tmp_path, 256 * MI, lambda: now_s)
    store = TieredStore(8 * MI, 64 * MI, make_policy("lru"), log)
    store.set_ttl({}, TTL_S)

    async def put(keys: range) -> None:
        for number in keys:
            store.put(b"key-%d" % number, VALUE)
            while store._writing:
                await asyncio.sleep(0.001)

    await put(range(115))
    assert b"key-0" in store._spare, "written, and still in DRAM"
    now_s += 0.8 * TTL_S
    await put(range(115, 140))
    assert store.below(b"key-0"), "its room was needed"
    now_s += 0.8 * TTL_S
    assert store.exists(b"key-0")
    now_s += 0.4 * TTL_S
    assert not store.exists(b"key-0")
    await store.close(0.0)
