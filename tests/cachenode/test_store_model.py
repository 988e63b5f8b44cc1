"""The store against a dictionary with a byte cap, with pins and half-written values."""

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import CapacityError, Entry, Reservation, Store
from kvtide_cachenode.store.arena import LEAD_BYTES, extent_bytes
from kvtide_cachenode.store.reservation import FIRST_BYTES
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES
from kvtide_cachenode.store.store import INLINE_BYTES
from kvtide_cachenode.wire.resp import BUFFER_BYTES

KI = 1024
CAPACITY = 256 * KI
keys = st.integers(0, 11).map(lambda number: b"key-%d" % number)
lengths = st.one_of(st.integers(0, 3000), st.integers(3000, 90_000), st.just(300_000))


def charge(key: bytes, length: int) -> int:
    payload = length if length <= INLINE_BYTES else extent_bytes(length)
    return payload + len(key) + ENTRY_OVERHEAD_BYTES


class StoreAgainstModel(RuleBasedStateMachine):
    """The model: least recently used last in, first out at the cap; charges of held bytes count."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(CAPACITY, 4 * CAPACITY, make_policy("lru"))
        self.model: OrderedDict[bytes, bytes] = OrderedDict()
        self.pins: list[tuple[Entry, memoryview, bytes]] = []
        self.writes: list[tuple[bytes, Reservation, bytes]] = []
        self.number = 0

    def held(self) -> int:
        pinned = {id(entry): entry.charge for entry, _, _ in self.pins}
        return sum(pinned.values()) + self.reserved()

    def reserved(self) -> int:
        return sum(reservation.charge for _, reservation, _ in self.writes)

    def used(self) -> int:
        removed = {id(entry): entry.charge for entry, _, _ in self.pins if not entry.live}
        live = sum(charge(key, len(value)) for key, value in self.model.items())
        return live + sum(removed.values()) + self.reserved()

    def go_on_shrinking(self) -> None:
        """What the node does for as long as it is over the capacity."""
        while self.store.over_capacity() and self.store.shrink(32 * KI):
            pass
        self.follow_evictions()

    def payload(self, length: int) -> bytes:
        self.number += 1
        return (b"%08d" % self.number * (length // 8 + 1))[:length]

    def follow_evictions(self) -> None:
        """Take the store's evictions over after checking that they are a prefix of the LRU order."""
        gone = [key for key in self.model if not self.store.exists(key)]
        assert gone == list(self.model)[: len(gone)], "an entry went before a less recently used one"
        for key in gone:
            del self.model[key]

    @rule(key=keys, length=lengths)
    def put(self, key: bytes, length: int) -> None:
        value, before = self.payload(length), dict(self.model)
        try:
            self.store.put(key, value)
        except CapacityError:
            assert self.held() + charge(key, length) > self.store.capacity_bytes
            assert {
                key: bytes(self.store.value(found)) for key in before if (found := self.store.peek(key))
            } == before
            return
        self.model.pop(key, None)
        self.follow_evictions()
        self.model[key] = value

    @rule(key=keys, length=st.integers(INLINE_BYTES + 1, 90_000))
    @precondition(lambda self: len(self.writes) < 3)
    def begin(self, key: bytes, length: int) -> None:
        try:
            reservation = self.store.reserve(key, length)
        except CapacityError:
            assert self.held() + charge(key, length) > self.store.capacity_bytes
            self.agrees()
            return
        self.follow_evictions()
        self.writes.append((key, reservation, self.payload(length)))

    @rule(finishes=st.booleans())
    @precondition(lambda self: self.writes)
    def end(self, finishes: bool) -> None:
        key, reservation, value = self.writes.pop(0)
        if finishes:
            reservation.memory[:] = value
            self.store.commit(key, reservation)
            self.model.pop(key, None)
            self.model[key] = value
        else:
            self.store.abort(reservation)
        self.go_on_shrinking()

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        entry = self.store.get(key)
        if entry is None:
            assert key not in self.model
            return
        assert self.store.value(entry) == self.model[key]
        self.model.move_to_end(key)

    @rule(key=keys)
    @precondition(lambda self: len(self.pins) < 4)
    def pin(self, key: bytes) -> None:
        entry = self.store.peek(key)
        if entry is not None and entry.inline is None:
            self.pins.append((entry, self.store.pin(entry), self.model[key]))

    @rule()
    @precondition(lambda self: self.pins)
    def unpin(self) -> None:
        entry, view, value = self.pins.pop(0)
        assert view == value, "a pinned entry changed"
        view.release()
        self.store.unpin(entry)
        self.go_on_shrinking()

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        assert self.store.delete(key) == (self.model.pop(key, None) is not None)
        self.go_on_shrinking()

    @rule(capacity=st.integers(0, 4 * CAPACITY))
    def resize(self, capacity: int) -> None:
        self.store.set_capacity(capacity)
        self.go_on_shrinking()
        if self.held() <= capacity:
            assert self.store.used_bytes <= capacity
            assert self.store.resident_bytes() <= capacity

    @invariant()
    def agrees(self) -> None:
        assert len(self.store) == len(self.model)
        assert self.store.used_bytes == self.used()
        self.store.check()

    @invariant()
    def capped(self) -> None:
        assert self.store.used_bytes <= max(self.store.capacity_bytes, self.held())
        if self.store.used_bytes <= self.store.capacity_bytes:
            assert self.store.resident_bytes() <= self.store.capacity_bytes


StoreAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
test_store_against_model = StoreAgainstModel.TestCase


def small_store(capacity: int = CAPACITY) -> Store:
    return Store(capacity, 4 * CAPACITY, make_policy("lru"))


def test_a_value_larger_than_the_tier_evicts_nothing() -> None:
    store = small_store()
    store.put(b"kept", b"v" * 10_000)
    with pytest.raises(CapacityError, match="the tier has 262144"):
        store.put(b"big", bytes(CAPACITY))
    assert store.exists(b"kept")
    assert store.counters.rejected == 1


def test_an_insert_during_a_shrink_evicts_what_it_adds_and_no_more() -> None:
    store = small_store(4 * CAPACITY)
    for number in range(40):
        store.put(b"%d" % number, bytes(20_000))
    used = store.used_bytes
    store.set_capacity(CAPACITY)
    store.put(b"new", bytes(20_000))
    assert store.used_bytes <= used
    assert len(store) >= 39


def test_scan_returns_every_key_that_stays() -> None:
    store = small_store(4 * CAPACITY)
    for number in range(500):
        store.put(b"%d" % number, b"")
    cursor, seen = store.scan(0, 7)
    while cursor:
        store.delete(b"%d" % (499 - len(seen) % 100))
        store.put(b"late-%d" % len(seen), b"")
        cursor, page = store.scan(cursor, 7)
        seen += page
    assert {b"%d" % number for number in range(400)} <= set(seen)


def test_who_holds_the_room_is_said() -> None:
    """A value may be refused though nothing is in flight: what is charged beside entries leaves no room."""
    store = small_store()
    store.charge_beside("index", CAPACITY)
    with pytest.raises(CapacityError, match=f"in flight hold 0 bytes, .* and the process {CAPACITY}"):
        store.put(b"k", b"v")


def test_a_value_that_was_only_announced_takes_what_the_parser_may_bring_before_it_asks() -> None:
    assert FIRST_BYTES >= LEAD_BYTES + BUFFER_BYTES
    store = Store(256 << 20, 256 << 20, make_policy("lru"))
    announced = [store.reserve(b"%d" % number, 66_000_000) for number in range(30)]
    assert store.used_bytes <= 30 * (FIRST_BYTES + 1024)
    store.check()
    for reservation in announced:
        store.abort(reservation)
    assert store.used_bytes == 0
    store.check()
