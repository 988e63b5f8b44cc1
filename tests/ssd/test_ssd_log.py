"""The log as its caller sees it: values come back, time-outs, budget, cap, typed answers."""

import asyncio
import ctypes
import mmap
import random

import pytest

from kvtide_cachenode.store.ssd.files import SsdLogError
from kvtide_cachenode.store.ssd.limits import Limits
from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.record import HEADER_BYTES, MAX_KEY_BYTES
from kvtide_cachenode.store.ssd.results import Miss, Missed, Refusal, Refused, Stored

from .conftest import keys_of

MIB = 1 << 20


def resident_pages(path):
    """Pages of a file in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    if not size:
        return 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapping:
        vector = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        anchor = ctypes.c_char.from_buffer(mapping)
        address = ctypes.c_void_p(ctypes.addressof(anchor))
        assert libc.mincore(address, ctypes.c_size_t(size), vector) == 0
        del anchor, address
        return sum(page & 1 for page in vector)


INLINE = 4096 - HEADER_BYTES - len(b"key-00")
LENGTHS = [0, 1, INLINE - 1, INLINE, INLINE + 1, 4095, 4096, 4097, 65536, MIB - 1, MIB, MIB + 1, 4 * MIB + 5]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("shift", [0, 1], ids=["on a page", "off a page"])
async def test_every_length_comes_back(tmp_path, clock, faulty_files, pages, direct, shift):
    log = await SsdLog.open(tmp_path, 128 * MIB, clock, files=faulty_files(direct=direct))
    values = {}
    for number, length in enumerate(LENGTHS):
        memory = pages(length + 8192)[shift : shift + length]
        memory[:] = random.Random(number).randbytes(length)
        values[b"key-%02d" % number] = bytes(memory)
        assert isinstance(await log.put(b"key-%02d" % number, memory, 0), Stored)
        memory[:] = bytes(length)  # the caller may reuse it at once
    for key, value in values.items():
        target = pages(5 * MIB)
        target[:] = b"\xaa" * len(target)
        into = target[shift : shift + len(value)]
        assert log.size_of(key) == len(value)
        assert await log.get_into(key, into) == len(value)
        assert into == value
        assert target[shift + len(value) :][:100] == b"\xaa" * 100, "written behind the value"
    log.check()
    await log.close()
    assert log.stats().direct == direct
    assert {path.name: resident_pages(path) for path in tmp_path.iterdir() if resident_pages(path)} == {}


async def test_read_only_values_and_small_targets(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    assert isinstance(await log.put(b"k", memoryview(b"v" * 10_000), 0), Stored)
    assert await log.get_into(b"k", target[:9_999]) == Missed(Miss.TARGET_TOO_SMALL)
    assert await log.get_into(b"k", memoryview(bytearray(10_000))) == 10_000
    await log.close()


async def test_overwrite_and_delete(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    await log.put(b"k", memoryview(b"old" * 5000), 0)
    await log.put(b"k", memoryview(b"new"), 0)
    assert await log.get_into(b"k", target) == 3
    assert target[:3] == b"new"
    assert len(log) == 1
    assert await log.delete(b"k")
    assert not await log.delete(b"k")
    assert await log.get_into(b"k", target) == Missed(Miss.ABSENT)
    log.check()
    await log.close()


async def test_idle_timeouts(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    log.set_ttl({1: 100.0, 2: 0.0}, 1000.0)
    assert await log.put(b"never", memoryview(b"v"), 2) == Refused(Refusal.TTL_ZERO)
    for key, group in ((b"idle", 1), (b"read", 1), (b"demoted", 1), (b"other", 3)):
        await log.put(key, memoryview(b"v"), group)
    clock.now_s += 60
    assert await log.get_into(b"read", target) == 1
    assert log.touch(b"demoted")
    clock.now_s += 60
    assert await log.get_into(b"idle", target) == Missed(Miss.EXPIRED)
    assert not log.contains(b"idle")
    assert log.size_of(b"idle") is None
    assert not log.touch(b"idle")
    assert sorted(keys_of(log)) == [b"demoted", b"other", b"read"]
    log.set_ttl({1: 10.0}, 1000.0)
    assert keys_of(log) == [b"other"]
    log.set_ttl({}, float("inf"))
    assert len(keys_of(log)) == 4, "what was not reclaimed is back under a longer time-out"
    await log.close()


async def test_expired_segments_are_removed(tmp_path, clock):
    log = await SsdLog.open(tmp_path, 64 * MIB, clock)
    log.set_ttl({}, 100.0)
    for number in range(16):
        await log.put(b"%d" % number, memoryview(bytes(MIB)), 0)
    used = log.stats().used_bytes
    clock.now_s += 101
    for _ in range(5):
        await log.maintain()
    assert log.stats().used_bytes < used / 8
    log.check()
    await log.close()


async def test_write_budget_is_per_day(tmp_path, clock):
    budget = 24 * 4 * MIB  # an hour saves up 4 MiB
    log = await SsdLog.open(tmp_path, 256 * MIB, clock, write_bytes_per_day=budget)
    stored = 0
    for hour in range(10):
        for number in range(20):
            result = await log.put(b"%d.%d" % (hour, number), memoryview(bytes(MIB)), 0)
            stored += isinstance(result, Stored)
            assert isinstance(result, Stored) or result == Refused(Refusal.OVER_BUDGET)
        clock.now_s += 3600
    assert 35 <= stored <= 44
    await log.close()
    again = await SsdLog.open(tmp_path, 256 * MIB, clock, write_bytes_per_day=budget)
    assert again.stats().budget_bytes <= 4 * MIB, "a restart does not refill the bucket"
    await again.close()


async def test_refusals(tmp_path, clock, faulty_files):
    files = faulty_files()
    limits = Limits(writes_waiting=2)
    log = await SsdLog.open(tmp_path, 16 * MIB, clock, limits=limits, files=files)
    assert await log.put(b"k", memoryview(bytes(17 * MIB)), 0) == Refused(Refusal.TOO_LARGE)
    assert await log.put(b"k" * (MAX_KEY_BYTES + 1), memoryview(b""), 0) == Refused(Refusal.TOO_LARGE)
    await log.put(b"first", memoryview(b"v"), 0)
    files.gate.clear()
    puts = [asyncio.create_task(log.put(b"%d" % n, memoryview(b"v"), 0)) for n in range(4)]
    await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
    files.gate.set()
    results = await asyncio.gather(*puts)
    assert results.count(Refused(Refusal.QUEUE_FULL)) == 2
    assert log.stats().counters["refused"]["queue_full"] == 2
    await log.close()
    assert await log.put(b"k", memoryview(b"v"), 0) == Refused(Refusal.CLOSED)
    log = await SsdLog.open(tmp_path, 0, clock)
    assert await log.put(b"k", memoryview(b"v"), 0) == Refused(Refusal.TOO_LARGE)
    await log.close()


async def test_one_process_a_directory(tmp_path, clock):
    log = await SsdLog.open(tmp_path, 16 * MIB, clock)
    with pytest.raises(SsdLogError, match="in use by another process; give each node its own"):
        await SsdLog.open(tmp_path, 16 * MIB, clock)
    await log.close()
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(SsdLogError, match="give a directory"):
        await SsdLog.open(blocked, 16 * MIB, clock)


async def test_concurrent_puts_gets_and_deletes_of_few_keys(tmp_path, clock, content, pages):
    log = await SsdLog.open(tmp_path, 24 * MIB, clock)
    chance = random.Random(7)
    latest = 0

    async def work() -> None:
        nonlocal latest
        for _ in range(60):
            key = b"key-%d" % chance.randrange(6)
            action = chance.random()
            if action < 0.5:
                latest += 1
                value = memoryview(content(key, latest, chance.randrange(MIB)))
                result = await log.put(key, value, 0)
                assert isinstance(result, Stored) or result.reason is Refusal.SUPERSEDED
            elif action < 0.9:
                target = pages(MIB)
                length = await log.get_into(key, target)
                if isinstance(length, int) and length >= 32:
                    assert target[:length] == content(key, int(bytes(target[20:32])), length)
            else:
                await log.delete(key)

    await asyncio.gather(*(work() for _ in range(8)))
    log.check()
    assert log.disk_bytes() <= log.stats().used_bytes <= 24 * MIB
    await log.close()


async def test_clear(tmp_path, clock):
    log = await SsdLog.open(tmp_path, 24 * MIB, clock)
    for number in range(50):
        await log.put(b"%d" % number, memoryview(bytes(50_000)), 0)
    await log.clear()
    assert len(log) == 0
    await log.close()
    log = await SsdLog.open(tmp_path, 24 * MIB, clock)
    assert len(log) == 0
    await log.close()
