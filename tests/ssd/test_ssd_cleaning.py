"""The cap holds at every moment, and what is useful survives cleaning and shrinking."""

import asyncio
import random

import pytest

from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Stored

from .conftest import keys_of

MIB = 1 << 20


async def put_all(log, clock, names, length):
    for name in names:
        clock.now_s += 1
        assert isinstance(await log.put(b"%d" % name, memoryview(bytes(length)), 0), Stored)


@pytest.mark.parametrize("length", [3_000, 60_000, 700_000])
async def test_the_disk_never_holds_more_than_the_cap(tmp_path, clock, length):
    cap = 8 * MIB
    log = await SsdLog.open(tmp_path, cap, clock)
    for number in range(min(3 * cap // length, 2400)):
        await log.put(b"%d" % number, memoryview(bytes(length)), 0)
        assert log.stats().used_bytes <= cap
        if number % 25 == 0:
            assert log.disk_bytes() <= cap
            clock.now_s += 61
            await log.maintain()
    log.check()
    assert log.stats().live_bytes >= cap // 2, "the cap is used, not only kept"
    await log.close()
    assert log.disk_bytes() <= cap


async def test_what_is_read_survives_what_is_not(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, 32 * MIB, clock)
    hot = range(40)
    await put_all(log, clock, hot, 100_000)
    for batch in range(30):
        await put_all(log, clock, range(1000 + batch * 40, 1040 + batch * 40), 100_000)
        for name in hot:
            await log.get_into(b"%d" % name, target)
    kept = sum(log.contains(b"%d" % name) for name in hot)
    assert kept >= 38
    counters = log.stats().counters
    assert counters["moved_bytes"] < counters["stored_bytes"], "cleaning writes less than it makes room for"
    log.check()
    await log.close()


async def test_the_callers_usefulness_decides(tmp_path, clock):
    log = await SsdLog.open(
        tmp_path, 32 * MIB, clock, usefulness=lambda key, _: 1.0 if int(key) % 10 == 0 else -float("inf")
    )
    await put_all(log, clock, range(1500), 100_000)
    kept = [int(key) for key in keys_of(log)]
    useful = [name for name in kept if name % 10 == 0]
    assert len(useful) >= 120, "of 150 useful ones"
    await log.close()


async def test_shrink_keeps_the_hottest_and_tells_its_progress(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    await put_all(log, clock, range(500), 100_000)
    chance = random.Random(3)
    hot = chance.sample(range(50, 500), 60)
    for name in hot:
        clock.now_s += 1
        await log.get_into(b"%d" % name, target)
    shrink = asyncio.create_task(log.set_cap(16 * MIB))
    seen = []
    while not shrink.done():
        await asyncio.wait([shrink], timeout=0.002)
        seen.append(log.stats().used_bytes)
    assert await shrink
    assert max(seen) <= 64 * MIB
    assert log.stats().used_bytes <= 16 * MIB
    assert log.disk_bytes() <= 16 * MIB
    kept = sum(log.contains(b"%d" % name) for name in hot)
    assert kept >= 55
    assert len(log) >= 90, "more than the hottest fit"
    log.check()
    assert await log.set_cap(0)
    assert log.disk_bytes() == 0
    await log.close()


async def test_a_later_cap_ends_a_shrink(tmp_path, clock):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    await put_all(log, clock, range(500), 100_000)
    before = len(log)
    shrink = asyncio.create_task(log.set_cap(8 * MIB))
    while len(log) == before:
        await asyncio.sleep(0)
    assert await log.set_cap(64 * MIB)
    assert not await shrink
    assert len(log) > before / 2
    again = asyncio.create_task(log.set_cap(8 * MIB))
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    assert log.stats().cap_bytes == 8 * MIB
    await log.maintain()
    assert log.stats().used_bytes <= 8 * MIB
    log.check()
    await log.close()


async def test_reads_go_on_while_records_move(tmp_path, clock, content, pages, faulty_files):
    files = faulty_files()
    log = await SsdLog.open(tmp_path, 48 * MIB, clock, files=files)
    for number in range(300):
        clock.now_s += 1
        key = b"%d" % number
        await log.put(key, memoryview(content(key, 1, 100_000)), 0)
    for number in range(0, 300, 3):  # so that every segment has something to be moved
        clock.now_s += 1
        await log.get_into(b"%d" % number, pages(100_000))
    files.gated = {"pwritev"}
    files.gate.clear()
    shrink = asyncio.create_task(log.set_cap(24 * MIB))
    assert await asyncio.to_thread(files.held.wait, 20)  # a record's copy is under way
    present = sorted(keys_of(log))
    assert len(present) > 200
    for key in present:
        into = pages(100_000)
        assert await log.get_into(key, into) == 100_000
        assert into[:100_000] == content(key, 1, 100_000)
    files.gate.set()
    chance = random.Random(1)
    while not shrink.done():
        key = b"%d" % chance.randrange(300)
        into = pages(100_000)
        result = await log.get_into(key, into)
        if isinstance(result, int):
            assert into[:result] == content(key, 1, 100_000)
    assert await shrink
    assert log.stats().counters["moved"] > 0
    assert log.stats().counters["missed"]["corrupt"] == 0
    await log.close()
