"""What a restart finds: after a clean stop, after a kill, after damage."""

import math
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Miss, Missed, Stored
from kvtide_cachenode.store.ssd.snapshot import SNAPSHOT_NAME

from .conftest import keys_of

MIB = 1 << 20
CAP = 64 * MIB


async def fill(log, content, count, *, version=1, length=100_000):
    values = {}
    for number in range(count):
        key = b"key-%d" % number
        values[key] = content(key, version, length + number)
        assert isinstance(await log.put(key, memoryview(values[key]), number % 3), Stored)
    return values


async def assert_holds(log, values, target):
    for key, value in values.items():
        assert await log.get_into(key, target) == len(value), key
        assert target[: len(value)] == value
    assert len(log) == len(values)
    log.check()


@pytest.mark.parametrize("killed", [False, True])
async def test_everything_is_adopted(tmp_path, clock, content, target, crashed, killed):
    log = await SsdLog.open(tmp_path / "a", CAP, clock)
    values = await fill(log, content, 100)
    values |= await fill(log, content, 20, version=2)
    for number in range(40, 60):
        assert await log.delete(b"key-%d" % number)
        del values[b"key-%d" % number]
    path = await crashed(log, tmp_path / "a", tmp_path / "b") if killed else tmp_path / "a"
    await log.close()
    for _ in range(2):
        again = await SsdLog.open(path, CAP, clock)
        assert again.stats().adopted == 80
        await assert_holds(again, values, target)
        await again.close()


async def test_idle_times_outlive_a_clean_stop(tmp_path, clock, target):
    log = await SsdLog.open(tmp_path, CAP, clock)
    await log.put(b"hit", memoryview(b"v"), 1)
    await log.put(b"idle", memoryview(b"v"), 1)
    clock.now_s += 60
    await log.get_into(b"hit", target)
    await log.close()
    clock.now_s += 60
    log = await SsdLog.open(tmp_path, CAP, clock)
    log.set_ttl({1: 100.0}, 1.0)
    assert keys_of(log) == [b"hit"]
    await log.close()


async def test_snapshot_then_changes_then_kill(tmp_path, clock, content, target, crashed):
    log = await SsdLog.open(tmp_path / "a", CAP, clock)
    values = await fill(log, content, 60)
    clock.now_s += 61
    await log.maintain()
    assert log.stats().counters["snapshots"] == 1
    values |= await fill(log, content, 10, version=2, length=30_000)
    for number in range(30, 40):
        await log.delete(b"key-%d" % number)
        del values[b"key-%d" % number]
    # A key that got a new value and was then deleted must not fall back to the one in the snapshot.
    await log.put(b"key-50", memoryview(b"newer"), 0)
    await log.delete(b"key-50")
    del values[b"key-50"]
    again = await SsdLog.open(await crashed(log, tmp_path / "a", tmp_path / "b"), CAP, clock)
    await assert_holds(again, values, target)
    await again.close()
    await log.close()


async def test_no_older_value_returns_when_the_newer_one_was_evicted(
    tmp_path, clock, content, target, crashed
):
    log = await SsdLog.open(tmp_path / "a", 16 * MIB, clock)
    for number in range(12):
        key = b"key-%d" % number
        await log.put(key, memoryview(content(key, 1, 100_000)), 0)
        await log.put(key, memoryview(content(key, 2, 200_000)), 0)
        await log.put(b"keep-%d" % number, memoryview(content(key, 1, 300_000)), 0)
        clock.now_s += 1
    versions = set()
    for round_ in range(60):
        clock.now_s += 1
        await log.put(b"other-%d" % round_, memoryview(bytes(500_000)), 0)
        if round_ % 6:
            continue
        again = await SsdLog.open(await crashed(log, tmp_path / "a", tmp_path / "b"), 16 * MIB, clock)
        for number in range(12):
            length = await again.get_into(b"key-%d" % number, target)
            versions.add(int(bytes(target[20:32])) if isinstance(length, int) else None)
        await again.close()
    assert versions == {2, None}
    await log.close()


async def test_eviction_of_the_newer_value_first_buries_the_older(tmp_path, clock, target, crashed):
    """An overwritten record's mark need not be on the disk at once, but before what hides the record goes."""
    log = await SsdLog.open(
        tmp_path / "a", 16 * MIB, clock, usefulness=lambda key, _: 1.0 if key[:4] == b"keep" else -math.inf
    )
    await log.put(b"keep", memoryview(bytes(200_000)), 0)
    await log.put(b"k", memoryview(b"older"), 0)
    for number in range(8):
        await log.put(b"other-%d" % number, memoryview(bytes(200_000)), 0)
    await log.put(b"k", memoryview(b"newer"), 0)
    for number in range(8, 16):
        await log.put(b"other-%d" % number, memoryview(bytes(200_000)), 0)
    assert await log.set_cap(MIB)
    assert log.contains(b"keep")
    assert not log.contains(b"k")
    path = await crashed(log, tmp_path / "a", tmp_path / "b")
    await log.close()
    again = await SsdLog.open(path, 16 * MIB, clock)
    assert again.contains(b"keep")
    assert await again.get_into(b"k", target) == Missed(Miss.ABSENT)
    await again.close()


async def test_torn_tail(tmp_path, clock, content, target, crashed):
    log = await SsdLog.open(tmp_path / "a", CAP, clock)
    values = await fill(log, content, 8)
    path = await crashed(log, tmp_path / "a", tmp_path / "b")
    await log.close()
    newest = max(path.glob("*.segment"))
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - 4096 * 12)
    again = await SsdLog.open(path, CAP, clock)
    lost = values.pop(b"key-7")
    assert not again.contains(b"key-7")
    await assert_holds(again, values, target)
    assert isinstance(await again.put(b"key-7", memoryview(lost), 0), Stored)
    values[b"key-7"] = lost
    path = await crashed(again, path, tmp_path / "c")
    await again.close()
    again = await SsdLog.open(path, CAP, clock)
    await assert_holds(again, values, target)
    await again.close()


async def test_hole_in_the_tail_hides_nothing_behind_it(tmp_path, clock, content, target, crashed):
    log = await SsdLog.open(tmp_path / "a", CAP, clock)
    values = await fill(log, content, 6)
    path = await crashed(log, tmp_path / "a", tmp_path / "b")
    await log.close()
    newest = max(path.glob("*.segment"))
    data = bytearray(newest.read_bytes())
    lost = data.index(b"key-2" + values[b"key-2"][:0])
    page = lost - lost % 4096
    data[page : page + 4096 * 25] = bytes(4096 * 25)
    newest.write_bytes(data)
    again = await SsdLog.open(path, CAP, clock)
    del values[b"key-2"]
    await assert_holds(again, values, target)
    await again.close()


async def test_a_value_that_looks_like_a_record_is_not_one(tmp_path, clock, target, crashed):
    log = await SsdLog.open(tmp_path / "a", CAP, clock)
    await log.put(b"victim", memoryview(b"true" * 2000), 0)
    image = max((tmp_path / "a").glob("*.segment")).read_bytes()
    await log.put(b"image", memoryview(image), 0)
    await log.delete(b"victim")
    path = await crashed(log, tmp_path / "a", tmp_path / "b")
    await log.close()
    # With the header of the image's own record gone, the search goes through its value.
    segment = max(path.glob("*.segment"))
    data = bytearray(segment.read_bytes())
    at = data.index(b"image")
    data[at - at % 4096 : at - at % 4096 + 4096] = bytes(4096)
    segment.write_bytes(data)
    again = await SsdLog.open(path, CAP, clock)
    assert keys_of(again) == []
    await again.close()


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
async def test_damaged_snapshot_is_replayed_around(tmp_path, clock, content, target, damage):
    log = await SsdLog.open(tmp_path, CAP, clock)
    values = await fill(log, content, 30)
    await log.delete(b"key-3")
    del values[b"key-3"]
    await log.close()
    snapshot = tmp_path / SNAPSHOT_NAME
    data = bytearray(snapshot.read_bytes())
    data[2000] ^= 1
    match damage:
        case "missing":
            snapshot.unlink()
        case "cut":
            snapshot.write_bytes(data[: len(data) // 2])
        case "empty":
            snapshot.write_bytes(b"")
        case _:
            snapshot.write_bytes(data)
    log = await SsdLog.open(tmp_path, CAP, clock)
    await assert_holds(log, values, target)
    await log.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 40))
async def test_no_damage_gives_a_wrong_byte(memory_path, clock, content, target, seed, flips):
    chance = random.Random(seed)
    path = memory_path / "log"
    log = await SsdLog.open(path, CAP, clock)
    values = {}
    for number in range(12):
        key = b"key-%d" % number
        values[key] = content(key, 1, chance.choice([0, 10, 3000, 5000, 40_000]))
        await log.put(key, memoryview(values[key]), 0)
    if chance.random() < 0.5:
        await log.delete(b"key-0")
    await log.close()
    files = sorted(file for file in path.iterdir() if file.stat().st_size)
    for _ in range(flips):
        with chance.choice(files).open("r+b") as file:
            size = file.seek(0, 2)
            at = chance.choice([chance.randrange(size), chance.randrange(min(size, 9000))])
            file.seek(at)
            was = file.read(1)
            file.seek(at)
            file.write(bytes([was[0] ^ 1 << chance.randrange(8)]))
    log = await SsdLog.open(path, CAP, clock)
    for key, value in values.items():
        length = await log.get_into(key, target)
        assert isinstance(length, Missed) or target[:length] == value
    log.check()
    await log.close()
    shutil.rmtree(path)


async def test_corrupt_entry_is_dropped_and_counted(tmp_path, clock, content, target):
    log = await SsdLog.open(tmp_path, CAP, clock)
    value = content(b"k", 1, 50_000)
    await log.put(b"k", memoryview(value), 0)
    segment = max(tmp_path.glob("*.segment"))
    data = bytearray(segment.read_bytes())
    data[-5000] ^= 4
    segment.write_bytes(data)
    assert await log.get_into(b"k", target) == Missed(Miss.CORRUPT)
    assert await log.get_into(b"k", target) == Missed(Miss.ABSENT)
    assert log.stats().counters["missed"]["corrupt"] == 1
    await log.close()


async def test_a_hundred_thousand_entries_come_back(tmp_path, clock, target):
    """The books of 100,000 entries, with 200 real records behind them, as a clean stop leaves them."""
    log = await SsdLog.open(tmp_path, 64 << 30, clock)
    value = memoryview(b"v" * 100)
    for number in range(200):
        await log.put(b"real-%06d" % number, value, 0)
    segment = next(iter(log._books.segments.table.values()))
    for number in range(100_000 - 200):
        log._index.insert(b"vllm@some/model@1@0@%032x" % number, (segment.number, 0), 4 * MIB, 0, 1, clock())
    log._upkeep._snapshot_sequence = -1
    await log.close()
    log = await SsdLog.open(tmp_path, 64 << 30, clock)
    assert await log.get_into(b"real-000007", target) == 100
    assert len(log) == 100_000
    assert await log.get_into(b"vllm@some/model@1@0@%032x" % 5, target) == Missed(Miss.CORRUPT)
    await log.close()


async def test_restarts_leave_no_trail_of_segments(tmp_path, clock):
    for number in range(20):
        log = await SsdLog.open(tmp_path, CAP, clock)
        await log.put(b"%d" % number, memoryview(b"v"), 0)
        await log.close()
    assert len(list(Path(tmp_path).glob("*.segment"))) == 1
