"""The books of a tiered store in every state: written, leaving, spare, pinned, half received, flushed."""

import asyncio
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvtide_cachenode.store import CapacityError, Entry, Reservation, TieredStore
from kvtide_cachenode.store.arena import extent_bytes
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES
from kvtide_cachenode.store.store import INLINE_BYTES

from .conftest import MI, open_tiered

KI = 1024
DRAM = 4 * MI
keys = st.integers(0, 40).map(lambda number: b"key-%d" % number)
lengths = st.one_of(
    st.integers(0, 64),
    st.integers(INLINE_BYTES - 3, INLINE_BYTES + 3),
    st.integers(16 * KI - 3, 16 * KI + 3),
    st.integers(20 * KI, 300 * KI),
    st.integers(MI - 4096, MI + 4096),
    st.integers(DRAM - 5000, DRAM - 500),
    st.sampled_from([DRAM // 2, DRAM - 5 * KI, DRAM, 2 * DRAM]),
)
capacities = st.sampled_from([0, 600, 4 * KI, 64 * KI, MI, DRAM, DRAM, 2 * DRAM])


def charge_of(key: bytes, length: int) -> int:
    return len(key) + ENTRY_OVERHEAD_BYTES + (length if length <= INLINE_BYTES else extent_bytes(length))


async def quiet(store: TieredStore) -> None:
    while store._writing or store._reading:
        await asyncio.sleep(0.001)


class Books(RuleBasedStateMachine):
    """Nothing but `turns` and what is awaited lets the tasks run, as when a client pipelines."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(mkdtemp(prefix="books-"))
        self.runner = asyncio.Runner()
        self.store = self.run(open_tiered(self.path, DRAM, 64 * MI))
        self.model: dict[bytes, bytes] = {}
        self.writes: list[tuple[bytes, Reservation, bytes, int]] = []
        self.pins: list[tuple[Entry, memoryview, bytes]] = []
        self.number = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def payload(self, length: int) -> bytes:
        self.number += 1
        return (b"%08d" % self.number * (length // 8 + 1))[:length]

    def must_be_full(self, more: int, whole: int) -> None:
        """A refusal is right: what cannot be freed now leaves no room."""
        store = self.store
        assert store._held_bytes + more > store.capacity_bytes or whole > store.capacity_bytes

    @rule(key=keys, length=lengths, times=st.sampled_from([1, 1, 30]))
    def put(self, key: bytes, length: int, times: int) -> None:
        async def put() -> None:
            for number in range(times):
                name = key if times == 1 else b"%b-%d" % (key, number)
                value, charge = self.payload(length), charge_of(name, length)
                try:
                    self.store.put(name, value)
                except CapacityError:
                    self.must_be_full(charge, charge)
                    continue
                self.model[name] = value
                self.store.get(name)

        self.run(put())

    @rule(key=keys, length=lengths)
    @precondition(lambda self: len(self.writes) < 4)
    def announce(self, key: bytes, length: int) -> None:
        try:
            reservation = self.store.reserve(key, length + INLINE_BYTES + 1)
        except CapacityError:
            return
        self.writes.append((key, reservation, self.payload(length + INLINE_BYTES + 1), 0))

    @rule(count=st.integers(1, 2 * MI), receives_all=st.booleans())
    @precondition(lambda self: self.writes)
    def receive(self, count: int, receives_all: bool) -> None:
        key, reservation, value, at = self.writes.pop(0)
        to = len(value) if receives_all else min(at + count, len(value))

        async def receive() -> None:
            try:
                self.store.grow(reservation, to)
            except CapacityError:
                self.must_be_full(1, charge_of(key, len(value)))
                self.store.abort(reservation)
                return
            assert reservation.granted_bytes <= extent_bytes(len(value))
            reservation.memory[at:to] = value[at:to]
            if to < len(value):
                self.writes.append((key, reservation, value, to))
                return
            self.store.commit(key, reservation)
            self.model[key] = value

        self.run(receive())

    @rule()
    @precondition(lambda self: self.writes)
    def give_up(self) -> None:
        self.store.abort(self.writes.pop()[1])

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        async def get() -> None:
            try:
                entry = await self.store.fetch(key)
            except CapacityError:
                return
            assert entry is None or self.store.value(entry) == self.model[key]

        self.run(get())

    @rule(key=keys)
    @precondition(lambda self: len(self.pins) < 4)
    def pin(self, key: bytes) -> None:
        entry = self.store.peek(key)
        if entry is not None:
            self.pins.append((entry, self.store.pin(entry), self.model[key]))

    @rule()
    @precondition(lambda self: self.pins)
    def unpin(self) -> None:
        entry, view, value = self.pins.pop(0)
        assert view == value, "a pinned entry changed"
        view.release()
        self.store.unpin(entry)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(settles=st.booleans())
    def flush(self, settles: bool) -> None:
        self.store.clear()
        self.model.clear()
        assert self.store.key_count() == 0
        if settles:
            self.run(self.store.settle())

    @rule()
    def free(self) -> None:
        self.store.free_flushed()

    @rule(capacity=capacities, slices=st.integers(0, 5))
    def resize(self, capacity: int, slices: int) -> None:
        async def shrink() -> None:
            for _ in range(slices):
                self.store.shrink(256 * KI)

        self.store.set_capacity(capacity)
        self.run(shrink())

    @rule(count=st.integers(1, 5))
    def turns(self, count: int) -> None:
        async def turns() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.run(turns())

    @rule()
    def rest(self) -> None:
        self.run(quiet(self.store))
        self.run(self.store.maintain())

    @invariant()
    def books(self) -> None:
        self.store.check()
        listed = [key for page in self.store.pages() for key in page]
        assert self.store.key_count() == len(listed)
        assert set(listed) <= set(self.model)
        arena = self.store._arena
        assert arena.resident_bytes() <= arena.used_bytes + arena.warm_bytes

    def teardown(self) -> None:
        while self.pins:
            self.unpin()
        while self.writes:
            self.give_up()
        self.run(quiet(self.store))
        self.store.clear()
        self.run(self.store.settle())
        self.run(self.store.maintain())
        self.store.check()
        assert self.store.used_bytes == 0
        self.run(self.store.close(0))
        self.runner.close()
        shutil.rmtree(self.path)


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_books = Books.TestCase


async def test_small_values_beside_two_that_hold_the_tier(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 64 * MI)
    large = [store.reserve_whole(b"a", 66_058_000), store.reserve_whole(b"b", 1_015_000)]
    for number in range(400):
        store.put(b"%d" % number, bytes(2000))
        assert store.get(b"%d" % number) is not None
        store.check()
    for reservation in large:
        store.abort(reservation)
    await quiet(store)
    await store.close(0)


async def test_an_announced_value_evicts_nothing_before_it_comes(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 48 * MI)
    for number in range(44):
        store.put(b"%d" % number, bytes(MI))
    announced = store.reserve(b"large", 40 * MI)
    store.grow(announced, 2)
    assert len(store) >= 43
    store.grow(announced, 10 * MI)
    assert 30 <= len(store) <= 38
    store.abort(announced)
    assert store.used_bytes <= store.capacity_bytes
    store.check()
    await quiet(store)
    await store.close(0)


async def test_of_two_values_that_do_not_both_fit_one_comes_in(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 16 * MI)
    values = {key: store.reserve(key, 12 * MI) for key in (b"a", b"b")}
    refused = []
    for to in range(MI, 13 * MI, MI):
        for key, reservation in list(values.items()):
            try:
                store.grow(reservation, to)
            except CapacityError:
                refused.append(key)
                store.abort(values.pop(key))
    assert len(refused) == 1
    for key, reservation in values.items():
        store.commit(key, reservation)
        assert store.length_of(key) == 12 * MI
    store.check()
    await quiet(store)
    await store.close(0)


async def test_announcements_run_out_before_addresses_do(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, 60 * MI)
    store.put(b"kept", bytes(3000))
    announced = []
    try:
        while True:
            announced.append(store.reserve(b"large", 59 * MI))
    except CapacityError:
        pass
    assert len(announced) >= 2
    assert store.exists(b"kept")
    for reservation in announced:
        store.abort(reservation)
    store.check()
    await store.close(0)


async def test_what_was_about_to_be_written_is_not_there_after_a_flush(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, MI)
    for number in range(600):
        store.put(b"%d" % number, bytes(2000))
    assert store._writing
    store.clear()
    store.put(b"later", b"v")
    while store.free_flushed():
        pass
    await quiet(store)
    await store.settle()
    assert store.key_count() == 1
    assert len(store.log) == 0
    assert store.exists(b"later")
    store.check()
    await store.close(0)


async def test_a_flush_holds_for_both_tiers_and_after_a_restart(tmp_path: Path) -> None:
    store = await open_tiered(tmp_path, MI)
    for number in range(2000):
        store.put(b"%d" % number, bytes(2000))
        if number % 16 == 0:
            await quiet(store)
    await store.maintain()
    assert len(store.log) > 100
    store.clear()
    assert store.key_count() == 0
    assert not any(store.exists(b"%d" % number) for number in range(2000))
    store.put(b"7", b"new")
    await store.settle()
    await store.maintain()
    store.check()
    await store.close(5)
    store = await open_tiered(tmp_path, MI)
    assert [key for page in store.pages() for key in page] == [b"7"]
    store.check()
    await store.close(0)
