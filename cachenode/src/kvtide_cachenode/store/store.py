"""The DRAM tier: a map from keys to bytes with a hard cap that counts everything."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.placement import Policy
from kvtide_cachenode.store.arena import ADDRESSES_PER_BYTE, extent_bytes
from kvtide_cachenode.store.decoded_stream import DecodedStream
from kvtide_cachenode.store.form import FORMS, RAW, form_of
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.reservation import AT_ONCE_BYTES, CapacityError, Reservation, extent_grant
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES, SLICE_BYTES, Room

if TYPE_CHECKING:
    from kvtide_cachenode.store.ssd import SsdLog

# LMCache stores a metadata object of some hundred bytes beside every block: a page each would waste most
# of it, so values up to this size live in the index.
INLINE_BYTES: Final = 2048
# Values that were announced and have not come take addresses only; at most this part of all there are.
PROMISED_SHARE: Final = 1 / 4
# What was charged beside the entries makes room in so many slices a second at the most.
UPKEEP_SLICES: Final = 8


class Store(Room):
    """What clients do with the entries of one tier; what they are charged is in `Room`.

    ``lower`` are the tiers below by their names, none here. After a change ``unsettled`` says that it must be
    made to last (`settle`) before it is acknowledged, or a restart could bring the old value back.
    """

    def __init__(self, capacity_bytes: int, max_bytes: int, policy: Policy[bytes]) -> None:
        super().__init__(capacity_bytes, max_bytes, policy)
        self.unsettled = False
        self.lower: Mapping[str, SsdLog] = {}
        self._max_promised_bytes = int(extent_bytes(max_bytes) * ADDRESSES_PER_BYTE * PROMISED_SHARE)

    def _use(self, index: Index) -> None:
        super()._use(index)
        self.exists: Callable[[bytes], bool] = index.contains
        self.peek = index.find

    def __len__(self) -> int:
        return len(self._index)

    @property
    def trouble(self) -> str | None:
        """What is wrong now, in a sentence; DRAM alone has no troubles."""
        return None

    def get(self, key: bytes) -> Entry | None:
        """The entry of a key, now the most recently used, or None."""
        entry = self._index.find(key)
        if entry is None:
            self.counters.get_misses += 1
            return None
        self._index.touched(key)
        self.counters.get_hits += 1
        self.counters.read_bytes += entry.length
        return entry

    def get_all(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """`get` of several keys, a few operations in C for all of them."""
        entries = list(map(self._index.find, keys))
        found = [entry for entry in entries if entry is not None]
        used = keys if len(found) == len(keys) else [entry.key for entry in found]
        deque(map(self._index.touched, used), maxlen=0)
        counters = self.counters
        counters.get_hits += len(found)
        counters.get_misses += len(keys) - len(found)
        counters.read_bytes += sum([entry.length for entry in found])
        return entries

    def below(self, key: bytes) -> bool:  # noqa: ARG002 - there is no tier below; `TieredStore` has one
        """Whether a key is in a lower tier only."""
        return False

    def all_here(self, keys: Iterable[bytes]) -> bool:  # noqa: ARG002 - see `below`
        """Whether none of the keys is `below`."""
        return True

    async def fetch(self, key: bytes) -> Entry | None:
        """The entry of a key, brought up if it is `below`; None when it is nowhere.

        Raises:
            CapacityError: it is below, but not worth its room in DRAM, or has none now: `stream` it.
        """
        return self.get(key)

    def stream(self, key: bytes) -> DecodedStream:
        """The value of a key that is `below`, as it was stored, in pieces, past DRAM."""
        raise AssertionError(f"{key!r} is not below: there is no lower tier")

    def streamed(self, length: int | None) -> None:
        """Count what came of a stream: its bytes, or None when there was nothing to read."""

    def read_ahead(self, keys: Iterable[bytes]) -> None:
        """Begin to bring up keys that are below and will be fetched soon."""

    def length_of(self, key: bytes) -> int | None:
        """Bytes of a key's value, None when there is none."""
        entry = self._index.find(key)
        return None if entry is None else entry.length

    def key_count(self) -> int:
        """Keys of all tiers; an entry that has expired counts until it is removed."""
        return len(self._index.keys)

    def hottest(self) -> Iterator[list[bytes]]:
        """The keys of this tier in pages, the one that the policy would give up last first."""
        return self._index.hottest()

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About ``count`` keys and the cursor to go on with, 0 at the end; see `Keys.page`."""
        return self._index.keys.page(cursor, count)

    def pages(self) -> Iterator[list[bytes]]:
        """All keys that can be read, in pages between which anything may happen."""
        return self._index.keys.pages()

    def touch(self, key: bytes) -> bool:
        """Count a use of a key without reading it; whether it is there."""
        if key not in self._index:
            return False
        self._index.touched(key)
        return True

    def charge_of(self, key: bytes) -> int | None:
        """Bytes of DRAM that a key takes, 0 where it is below, None when there is none."""
        entry = self._index.find(key)
        if entry is None:
            return 0 if self.exists(key) else None
        return entry.charge

    def forget(self, key: bytes) -> None:
        """Remove a key because it is another node's now, which is no client's delete."""
        self.counters.deletes -= self.delete(key)

    def counted(self) -> dict[str, int]:
        """What happened since the start."""
        return asdict(self.counters)

    def value(self, entry: Entry) -> bytes:
        """A copy of an entry's bytes as they lie there."""
        return bytes(self.view(entry))

    async def settle(self) -> None:
        """Return when no restart brings back what was deleted or overwritten before this call."""

    def set_ttl(self, ttl_s: Mapping[str, float], other_ttl_s: float) -> None:
        """Replace the idle time-outs in the lower tiers: by subtree, and for all other keys."""

    async def close(self, demote_s: float) -> None:
        """Write what is worth it to the lower tiers, for at most ``demote_s``."""

    def put(self, key: bytes, value: bytes) -> None:
        """Store a copy of a value.

        Raises:
            CapacityError: it does not fit; what the key held before is still there.
        """
        length = len(value)
        if length > INLINE_BYTES:
            reservation = self.reserve_whole(key, length)
            reservation.memory[:] = value
            self.commit(key, reservation)
            return
        charge = length + len(key) + ENTRY_OVERHEAD_BYTES
        if self.used_bytes + charge > self.capacity_bytes:
            self._make_room(charge, charge, length)
        self._replace(Entry(key, length, charge, value, -1))
        self.used_bytes += charge
        if self.over_capacity():  # warm pages make way for what grew outside the arena
            self._arena.trim(self._arena_limit_bytes())

    def reserve(self, key: bytes, length: int) -> Reservation:
        """An extent for a value of ``length`` bytes that is to be received, with room for its beginning.

        Raises:
            CapacityError: it does not fit.
        """
        beside, size = len(key) + ENTRY_OVERHEAD_BYTES, extent_bytes(length)
        granted = size if length <= AT_ONCE_BYTES else extent_grant(length, 0)
        charge = granted + beside
        if self.used_bytes + charge > self.capacity_bytes:
            self._make_room(charge, size + beside, length)
        if granted < size and self._arena.promised_bytes + size - granted > self._max_promised_bytes:
            raise self._rejection(f"no room for a value of {length} bytes: too many others are announced")
        start = self._allocate(length, granted, beside)
        while start is None:  # no address range is long enough: free ones grow together as entries go
            if not self._evict():
                raise self._rejection(f"no contiguous room for a value of {length} bytes")
            self._arena.trim(0)
            start = self._allocate(length, granted, beside)
        self._hold(charge)
        return Reservation(self._arena.view(start, length), start, charge, granted)

    def grow(self, reservation: Reservation, to_bytes: int, most_evicted: int = sys.maxsize) -> bool:
        """Make room for the first ``to_bytes`` of a value; evicts what must go for them.

        False where that is not done after ``most_evicted`` entries: call again.

        Raises:
            CapacityError: they do not fit now. The reservation is as it was, and still to be given up.
        """
        length = len(reservation.memory)
        if length <= AT_ONCE_BYTES:
            return True
        granted = extent_grant(length, to_bytes)
        more = granted - reservation.granted_bytes
        if more <= 0:
            return True
        if self.used_bytes + more > self.capacity_bytes:
            whole = reservation.charge - reservation.granted_bytes + extent_bytes(length)
            if not self._make_room(more, whole, length, most_evicted):
                return False
        self._arena.grant(reservation.start, granted, self._arena_limit_bytes())
        self._hold(more)
        reservation.granted_bytes = granted
        reservation.charge += more
        return True

    def reserve_whole(self, key: bytes, length: int) -> Reservation:
        """A reservation with room for all of a value.

        Raises:
            CapacityError: it does not fit.
        """
        reservation = self.reserve(key, length)
        try:
            self.grow(reservation, length)
        except CapacityError:
            self.abort(reservation)
            raise
        return reservation

    def commit(self, key: bytes, reservation: Reservation) -> None:
        """Make a received value visible under its key, in place of what was there."""
        length = len(reservation.memory)
        assert reservation.granted_bytes == extent_bytes(length), "a value without room was received"
        self._held_bytes -= reservation.charge
        self._unindexed_bytes -= reservation.charge
        self._replace(Entry(key, length, reservation.charge, None, reservation.start))

    def abort(self, reservation: Reservation) -> None:
        """Give up a reservation; its key keeps what it has."""
        self._hold(-reservation.charge)
        self._arena.free(reservation.start)

    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        entry = self._index.remove(key)
        if entry is None:
            return False
        self.counters.deletes += 1
        self._retire(entry)
        return True

    def clear(self) -> None:
        """Remove every key, in no time; `free_flushed` gives back what they take."""
        self.counters.deletes += self.key_count()
        self._flushed.append(self._index)
        self._use(Index(self._index.policy.fresh()))

    async def maintain(self) -> None:
        """What has to be done about once a second."""
        while self.free_flushed():
            await asyncio.sleep(0)
        self.count_memory()
        for _ in range(UPKEEP_SLICES):
            if not (self.over_capacity() and self.shrink(SLICE_BYTES)):
                break
            await asyncio.sleep(0)

    def _allocate(self, length: int, granted: int, beside: int) -> int | None:
        """An extent whose key and metadata take ``beside`` bytes of the capacity outside the arena."""
        return self._arena.allocate(length, granted, self._arena_limit_bytes() - beside)

    def _see_form(self, entry: Entry) -> None:
        entry.form = form_of(self.view(entry))
        if entry.form is not RAW:
            entry.plain = None

    def _replace(self, entry: Entry) -> None:
        if FORMS:
            self._see_form(entry)
        old = self._index.put(entry)
        if old is not None:
            self._retire(old)
        self.counters.sets += 1
        self.counters.written_bytes += entry.length
