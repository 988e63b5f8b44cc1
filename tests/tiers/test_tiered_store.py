"""Two tiers against a dictionary: whatever moves where, a key has its last value or none."""

import asyncio
import errno
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvtide_cachenode.contract.sizing import SSD_ENTRY_BYTES
from kvtide_cachenode.control.tiers import tier_status
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import CapacityError, SsdLog, StreamBrokenError, TieredStore
from kvtide_cachenode.store.ssd.files import Directory, Files, SsdLogError
from kvtide_cachenode.store.tiered import FETCH_TRIES, _Reading

from .conftest import MI, open_tiered

KI = 1024
keys = st.integers(0, 15).map(lambda number: b"key-%d" % number)
lengths = st.one_of(st.integers(0, 3000), st.integers(3000, 300_000), st.just(700_000))


async def value_of(store: TieredStore, key: bytes) -> bytes | None:
    """What a GET would answer."""
    try:
        entry = await store.fetch(key)
        return None if entry is None else store.value(entry)
    except CapacityError:
        async with store.stream(key) as value:
            if value.length is None:
                return None
            return b"".join([bytes(piece) async for piece in value.pieces()])


async def quiet(store: TieredStore) -> None:
    """Wait until nothing is written or read any more."""
    while store._writing or store._reading:
        await asyncio.sleep(0.001)


class TiersAgainstModel(RuleBasedStateMachine):
    """The model knows each key's last value; the store may have lost it, but has no other."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(mkdtemp(prefix="tiers-"))
        self.runner = asyncio.Runner()
        self.store = self.run(open_tiered(self.path, 2 * MI, 64 * MI))
        self.model: dict[bytes, bytes] = {}
        self.number = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def payload(self, length: int) -> bytes:
        self.number += 1
        return (b"%08d" % self.number * (length // 8 + 1))[:length]

    @rule(key=keys, length=lengths)
    def put(self, key: bytes, length: int) -> None:
        value = self.payload(length)

        async def put() -> None:
            try:
                self.store.put(key, value)
            except CapacityError:
                return
            self.model[key] = value

        self.run(put())

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        found = self.run(value_of(self.store, key))
        assert found is None or found == self.model[key]
        assert found is None or self.store.exists(key)

    @rule(key=keys)
    def race(self, key: bytes) -> None:
        """A value is written while the old one is on its way up."""
        value = self.payload(5000)

        async def race() -> None:
            reading = asyncio.create_task(value_of(self.store, key))
            await asyncio.sleep(0)
            before = self.model.get(key)
            try:
                self.store.put(key, value)
            except CapacityError:  # what is on its way to the SSD fills the tier
                value_now = before
            else:
                value_now = self.model[key] = value
            with suppress(StreamBrokenError):
                assert await reading in (None, before, value_now)
            assert await value_of(self.store, key) in (None, value_now)

        self.run(race())

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        async def delete() -> bool:
            there = self.store.delete(key)
            await self.store.settle()
            return there

        assert self.run(delete()) <= (key in self.model)
        self.model.pop(key, None)
        assert self.run(value_of(self.store, key)) is None

    @rule(capacity=st.integers(1, 6))
    def resize(self, capacity: int) -> None:
        async def resize() -> None:
            self.store.set_capacity(capacity * MI // 2)
            while self.store.over_capacity():
                self.store.shrink(256 * KI)
                await asyncio.sleep(0)

        self.run(resize())

    @rule(cap=st.sampled_from([0, 4 * MI, 64 * MI]))
    def resize_ssd(self, cap: int) -> None:
        self.run(self.store.log.set_cap(cap))

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        capacity = self.store.capacity_bytes

        async def stop() -> None:
            await quiet(self.store)
            await self.store.settle()
            await self.store.close(0 if kill else 5)

        self.run(stop())
        self.store = self.run(open_tiered(self.path, capacity, 64 * MI))

    @rule()
    def wait(self) -> None:
        self.run(quiet(self.store))
        self.run(self.store.maintain())

    @invariant()
    def books(self) -> None:
        self.store.check()
        listed = [key for page in self.store.pages() for key in page]
        assert set(listed) <= set(self.model)
        assert self.store.key_count() == len(listed) == len(set(listed))

    def teardown(self) -> None:
        self.run(quiet(self.store))
        self.run(self.store.close(0))
        self.runner.close()
        shutil.rmtree(self.path)


TiersAgainstModel.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
test_tiers_against_model = TiersAgainstModel.TestCase


def block(number: int, length: int = 200_000) -> bytes:
    return random.Random(number).randbytes(length)


async def filled(path: Path, entries: int, **options: Any) -> TieredStore:
    """A store that got more than its DRAM holds, slowly enough for everything to be written."""
    store = await open_tiered(path, **options)
    for number in range(entries):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    return store


async def test_what_dram_has_no_room_for_is_read_back(tmp_path: Path) -> None:
    store = await filled(tmp_path, 100, dram_bytes=4 * MI)
    assert len(store) < 25
    assert store.key_count() == 100
    assert store.used_bytes <= store.capacity_bytes
    assert store.movement.demotions_dropped == 0
    for number in range(100):
        assert await value_of(store, b"%d" % number) == block(number)
    assert store.movement.promoted >= 75
    written = store.movement.demoted
    for number in range(100):
        assert await value_of(store, b"%d" % number) == block(number)
    await quiet(store)
    # Copies that are there are not written again.
    assert store.movement.demoted <= written + 25
    store.check()
    await store.close(0)


async def test_a_pinned_entry_is_written_and_freed_when_it_was_sent(tmp_path: Path) -> None:
    store = await filled(tmp_path, 5, dram_bytes=4 * MI)
    entry = store.get(b"0")
    assert entry is not None
    view = store.pin(entry)
    for number in range(5, 60):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert not entry.live
    assert view == block(0)
    assert await value_of(store, b"0") == block(0)
    view.release()
    store.unpin(entry)
    store.check()
    await store.close(0)


@pytest.mark.parametrize(
    ("writes", "written"), [("always", True), ("secondTouch", False), ("reusedOnly", False)]
)
async def test_one_hit_wonders_wear_the_disk_only_if_asked_to(
    tmp_path: Path, writes: str, written: bool
) -> None:
    store = await filled(tmp_path, 60, dram_bytes=4 * MI, writes=writes)
    assert (store.movement.demoted > 0) == written
    assert (store.movement.demotions_not_admitted > 0) != written
    await store.close(0)


async def test_second_touches_are_remembered_over_evictions(tmp_path: Path) -> None:
    store = await filled(tmp_path, 60, dram_bytes=4 * MI, writes="secondTouch")
    for number in range(60):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.movement.demoted > 30
    await store.close(0)


async def test_closing_writes_the_hottest_and_a_restart_has_them(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 8 * MI)
    for number in range(20):
        store.put(b"%d" % number, block(number))
    await store.close(10)
    store = await open_tiered(tmp_path, 8 * MI)
    assert len(store) == 0
    for number in range(20):
        assert await value_of(store, b"%d" % number) == block(number)
    await store.close(0)


async def test_a_shrink_demotes_and_the_hottest_stay_in_dram(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 8 * MI)
    for number in range(30):
        store.put(b"%d" % number, block(number))
    for number in range(5):
        store.get(b"%d" % number)
    store.set_capacity(2 * MI)
    while store.over_capacity():
        store.shrink(MI)
        await asyncio.sleep(0.001)
    await quiet(store)
    assert store.resident_bytes() <= 2 * MI
    assert store.key_count() == 30
    assert all(store.peek(b"%d" % number) is not None for number in range(5))
    store.check()
    await store.close(0)


async def test_the_index_of_the_ssd_counts_as_memory(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 256 * KI)
    for number in range(2000):
        store.put(b"%d" % number, b"v")
        if number % 16 == 0:
            await quiet(store)
    await quiet(store)
    await store.maintain()
    assert 0 < len(store.log) * SSD_ENTRY_BYTES <= 64 * KI + 64 * SSD_ENTRY_BYTES
    assert store.used_bytes <= store.capacity_bytes
    store.check()
    await store.close(0)


async def test_a_value_too_large_for_dram_is_streamed(tmp_path: Path) -> None:
    store = await filled(tmp_path, 30, dram_bytes=8 * MI)
    large = random.Random(1).randbytes(3 * MI + 17)
    store.put(b"large", large)
    for number in range(40):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    before = len(store)
    assert store.below(b"large")
    with pytest.raises(CapacityError):
        await store.fetch(b"large")
    assert await value_of(store, b"large") == large
    assert len(store) == before
    await store.close(0)


def fill_with_others(store: TieredStore) -> None:
    """From now on something beside the entries takes all of DRAM."""
    store.charge_beside("others", store.capacity_bytes)
    while len(store):
        store.shrink(MI)


@pytest.mark.parametrize("length", [500, 100_000])
async def test_a_value_that_comes_up_and_finds_no_room_is_no_miss(tmp_path: Path, length: int) -> None:
    store = await open_tiered(tmp_path, 8 * MI)
    store.put(b"0", block(0, length))
    for number in range(1, 100):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.below(b"0")
    fill_with_others(store)
    for _ in range(3):
        with pytest.raises(CapacityError, match="no room in DRAM"):
            await store.fetch(b"0")
        assert await value_of(store, b"0") == block(0, length)
    store.charge_beside("others", 0)
    assert store.value(await store.fetch(b"0")) == block(0, length)
    assert store.counters.get_misses == 0
    await store.close(0)


class FailingFiles(Files):
    """Files whose transfers fail while ``broken`` says so."""

    broken = 0

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if self.broken:
            raise OSError(self.broken, "failing")
        return super().pwritev(fd, buffers, offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if self.broken:
            raise OSError(self.broken, "failing")
        return super().preadv(fd, buffers, offset)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_failing_disk_costs_hits_and_nothing_else(tmp_path: Path, code: int) -> None:
    files = FailingFiles()
    log = await SsdLog.open(tmp_path, 256 * MI, time.time, files=files)
    store = TieredStore(4 * MI, 64 * MI, make_policy("lru"), log)
    for number in range(100):
        files.broken = code if number >= 50 else 0
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.movement.demotions_refused > 10
    found = [await value_of(store, b"%d" % number) for number in range(100)]
    assert all(value in (None, block(number)) for number, value in enumerate(found))
    assert found[99] == block(99)
    files.broken = 0
    found = [await value_of(store, b"%d" % number) for number in range(100)]
    assert all(value in (None, block(number)) for number, value in enumerate(found))
    assert sum(value is not None for value in found) >= 15  # a segment that cannot be marked is given up
    store.check()
    await store.close(0)


async def test_a_damaged_value_is_never_streamed_whole(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 8 * MI)
    large = random.Random(1).randbytes(3 * MI)
    store.put(b"large", large)
    for number in range(80):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.below(b"large")
    for path in tmp_path.glob("*.segment"):
        at = path.read_bytes().find(large[MI : MI + 64])
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(b"damaged")
    got = bytearray()

    async def read() -> None:
        async with store.stream(b"large") as value:
            async for piece in value.pieces():
                got.extend(piece)

    with pytest.raises(StreamBrokenError, match="checksum"):
        await read()
    assert len(got) < len(large)
    assert not store.exists(b"large")
    assert await value_of(store, b"large") is None
    store.check()
    await store.close(0)


async def test_a_directory_that_is_removed_costs_what_was_in_it_and_is_used_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ssd"
    store = await filled(path, 60, dram_bytes=4 * MI)
    assert store.trouble is None
    shutil.rmtree(path)
    for number in range(60, 120):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    await store.maintain()
    assert store.trouble is not None
    assert str(path) in store.trouble
    assert tier_status(store)["ssd"].max_bytes >= 0
    for number in range(120):
        assert await value_of(store, b"%d" % number) in (None, block(number))
    assert await value_of(store, b"119") == block(119)
    store.delete(b"119")
    await store.settle()
    path.mkdir()
    store.log._writer.breaker._closed_from_s = 0.0  # the pause is over
    for number in range(200, 260):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.trouble is None
    found = [await value_of(store, b"%d" % number) for number in range(200, 260)]
    assert found == [block(number) for number in range(200, 260)]
    with pytest.raises(SsdLogError, match="is in use by another process"):
        Directory(path, Files()).lock()
    store.check()
    await store.close(0)


async def test_a_value_that_only_the_last_try_brought_up_is_no_miss(tmp_path, monkeypatch):
    store = await open_tiered(tmp_path, 4 * MI)
    store.put(b"k", b"v" * 5000)
    for number in range(100):
        store.put(b"%d" % number, random.Random(number).randbytes(200_000))
        await quiet(store)
    assert store.below(b"k")
    start, tries = store._start_read, []

    def evicted_twice(key, length):
        tries.append(key)
        if len(tries) == FETCH_TRIES:
            return start(key, length)
        reading = _Reading()  # it came, and had to leave before anybody looked
        reading.done.set()
        return reading

    monkeypatch.setattr(store, "_start_read", evicted_twice)
    entry = await store.fetch(b"k")
    assert entry is not None
    assert store.value(entry) == b"v" * 5000
    assert store.counters.get_misses == 0
    await store.close(0)
