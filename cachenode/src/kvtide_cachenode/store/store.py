"""The DRAM tier: a map from keys to bytes with a hard cap that counts everything."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

from kvtide_cachenode.eviction import Policy
from kvtide_cachenode.sizing import PROCESS_BYTES
from kvtide_cachenode.store.arena import ADDRESSES_PER_BYTE, Arena, extent_bytes
from kvtide_cachenode.store.counters import Counters
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.reservation import CapacityError, Reservation, extent_grant

# LMCache stores a metadata object of some hundred bytes beside every block: a page each would waste most
# of it, so values up to this size live in the index.
INLINE_BYTES: Final = 2048
# What one entry costs beside its key's and value's bytes: the entry, its places in two dictionaries, among
# the keys and in the arena's books. Measured: 353 bytes for each of 200,000 inline entries, 294 for each of
# 50,000 extents; the rest is for dictionaries that have just doubled and for pages of which a part is free.
ENTRY_OVERHEAD_BYTES: Final = 512
# Memory is counted anew when a 64th of the capacity was freed outside the arena, within these bounds.
COUNTED_BYTES: Final = 4 * 1024 * 1024
MOST_COUNTED_BYTES: Final = 64 * 1024 * 1024
HEAP: Final = "heap"
# Values that were announced and have not come take addresses only; at most this part of all there are.
PROMISED_SHARE: Final = 1 / 4
# A slice of a shrink ends after so many entries, however small they are.
SLICE_ENTRIES: Final = 512


class Store:
    """Entries of one tier, evicted by ``policy`` so that ``used_bytes`` never exceeds ``capacity_bytes``.

    Every entry is charged the extent or inline bytes, its key and its metadata; so are reservations, as far
    as they were granted, and entries that were removed while a reply still sends them. Only while a shrink is
    under way is more used than the capacity, and then inserts evict at least what they add.
    """

    def __init__(self, capacity_bytes: int, max_bytes: int, policy: Policy[bytes]) -> None:
        assert 0 <= capacity_bytes <= max_bytes, "the capacity is between zero and max_bytes"
        self.capacity_bytes = capacity_bytes
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.counters = Counters()
        self.tiered = False
        self.unsettled = False
        self._arena = Arena(max_bytes)
        self._max_promised_bytes = int(extent_bytes(max_bytes) * ADDRESSES_PER_BYTE * PROMISED_SHARE)
        # Charged to reservations, pinned entries, and beside: cannot be freed now.
        self._held_bytes = 0
        # Of that, what is charged to no entry in an index.
        self._unindexed_bytes = 0
        self._beside: dict[str, int] = {}
        self._process_bytes: Callable[[], int] | None = None
        self._freed_bytes = 0  # outside the arena, since memory was counted last
        self._flushed: list[Index] = []
        self._use(Index(policy))

    def _use(self, index: Index) -> None:
        self._index = index
        self.exists: Callable[[bytes], bool] = index.contains
        self.peek = index.find

    def __len__(self) -> int:
        return len(self._index)

    @property
    def trouble(self) -> str | None:
        """What is wrong now, in a sentence; DRAM alone has no troubles."""
        return None

    @property
    def wasted_bytes(self) -> int:
        """Rounding of extents, the only internal fragmentation."""
        return self._arena.wasted_bytes

    def resident_bytes(self) -> int:
        """Physical memory of the tier: the arena's pages and what is charged outside it."""
        return self._arena.resident_bytes() + self.used_bytes - self._arena.used_bytes

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

    def forget(self, key: bytes) -> None:
        """Remove a key because it is another node's now, which is no client's delete."""
        self.counters.deletes -= self.delete(key)

    def counted(self) -> dict[str, int]:
        """What happened since the start."""
        return asdict(self.counters)

    def pin(self, entry: Entry) -> memoryview:
        """The bytes of a live entry outside the index; they stay as they are until `unpin`."""
        assert entry.live, "pin of a removed entry"
        if not entry.pins:
            self._held_bytes += entry.charge
        entry.pins += 1
        if entry.inline is not None:
            return memoryview(entry.inline)
        return self._arena.view(entry.start, entry.length)

    def unpin(self, entry: Entry) -> None:
        """Let go of one pin. The memoryview must not be used any more."""
        entry.pins -= 1
        if not entry.pins:
            self._held_bytes -= entry.charge
            if not entry.live:
                self._unindexed_bytes -= entry.charge
                self._release(entry)

    def value(self, entry: Entry) -> bytes:
        """A copy of an entry's bytes."""
        if entry.inline is not None:
            return entry.inline
        return bytes(self._arena.view(entry.start, entry.length))

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
        beside, granted = len(key) + ENTRY_OVERHEAD_BYTES, extent_grant(length, 0)
        charge = granted + beside
        if self.used_bytes + charge > self.capacity_bytes:
            self._make_room(charge, extent_bytes(length) + beside, length)
        if self._arena.promised_bytes + extent_bytes(length) - granted > self._max_promised_bytes:
            raise self._rejection(f"no room for a value of {length} bytes: too many others are announced")
        start = self._allocate(length, granted, beside)
        while start is None:  # no address range is long enough: free ones grow together as entries go
            if not self._evict():
                raise self._rejection(f"no contiguous room for a value of {length} bytes")
            self._arena.trim(0)
            start = self._allocate(length, granted, beside)
        self._hold(charge)
        return Reservation(self._arena.view(start, length), start, charge, granted)

    def grow(self, reservation: Reservation, to_bytes: int) -> None:
        """Make room for the first ``to_bytes`` of a value; evicts what must go for them.

        Raises:
            CapacityError: they do not fit now. The reservation is as it was, and still to be given up.
        """
        length = len(reservation.memory)
        granted = extent_grant(length, to_bytes)
        more = granted - reservation.granted_bytes
        if more <= 0:
            return
        if self.used_bytes + more > self.capacity_bytes:
            whole = reservation.charge - reservation.granted_bytes + extent_bytes(length)
            self._make_room(more, whole, length)
        self._arena.grant(reservation.start, granted, self._arena_limit_bytes())
        self._hold(more)
        reservation.granted_bytes = granted
        reservation.charge += more

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

    def free_flushed(self) -> bool:
        """Give back a slice of what `clear` removed; whether there is more."""
        if not self._flushed:
            return False
        index = self._flushed[-1]
        for entry in index.drain(SLICE_ENTRIES):
            self._retire(entry)
        if index.drained:
            self._flushed.pop()
        return bool(self._flushed)

    def set_capacity(self, capacity_bytes: int) -> None:
        """Change the cap. A smaller one holds for new values at once; `shrink` brings the rest under it."""
        assert 0 <= capacity_bytes <= self.max_bytes, "the capacity is between zero and max_bytes"
        self.capacity_bytes = capacity_bytes

    def shrink(self, slice_bytes: int) -> bool:
        """Evict and give back pages, about ``slice_bytes`` of each; whether something was left to do."""
        before = self.used_bytes
        for _ in range(SLICE_ENTRIES):
            if self.used_bytes <= self.capacity_bytes or before - self.used_bytes >= slice_bytes:
                break
            if not (self._may_evict() and self._evict()):
                break
        given_back = self._arena.trim(self._arena_limit_bytes(), slice_bytes)
        return given_back > 0 or self.used_bytes != before

    def over_capacity(self) -> bool:
        """Whether more is used or resident than the capacity allows: a shrink is not finished."""
        arena = self._arena
        return self.used_bytes + arena.warm_bytes > self.capacity_bytes

    async def maintain(self) -> None:
        """What has to be done about once a second."""
        while self.free_flushed():
            await asyncio.sleep(0)
        self.count_memory()

    def watch_memory(self, process_bytes: Callable[[], int]) -> None:
        """From now on charge what the process holds that nothing else accounts for.

        Freed memory may stay with the allocator, in pages that other objects are on. ``process_bytes`` gives
        back what can be and says what the kernel counts then.
        """
        self._process_bytes = process_bytes
        self.count_memory()

    def count_memory(self) -> None:
        """Ask what the process holds, and charge what of it was not accounted for."""
        self._freed_bytes = 0
        if self._process_bytes is not None:
            accounted = PROCESS_BYTES + self.resident_bytes() - self._beside.get(HEAP, 0)
            self.charge_beside(HEAP, max(self._process_bytes() - accounted, 0))

    def charge_beside(self, what: str, size_bytes: int) -> None:
        """What something beside the entries takes of the capacity from now on, in place of what it took."""
        more = size_bytes - self._beside.get(what, 0)
        self._beside[what] = size_bytes
        self._hold(more)

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        self._arena.check()
        self._index.keys.check()
        entries = [entry for index in (self._index, *self._flushed) for entry in index.entries()]
        charged = sum(entry.charge for entry in entries)
        assert self.used_bytes == charged + self._unindexed_bytes, "used bytes differ from what is charged"
        pinned = sum(entry.charge for entry in entries if entry.pins)
        assert self._held_bytes == pinned + self._unindexed_bytes, "held bytes differ"
        assert all(entry.live for entry in entries), "an index holds a removed entry"

    def _hold(self, more_bytes: int) -> None:
        """Charge bytes that belong to no entry and cannot be freed by evicting."""
        self.used_bytes += more_bytes
        self._held_bytes += more_bytes
        self._unindexed_bytes += more_bytes

    def _arena_limit_bytes(self) -> int:
        """How much the arena may hold beside what is charged outside it."""
        return self.capacity_bytes - self.used_bytes + self._arena.used_bytes

    def _allocate(self, length: int, granted: int, beside: int) -> int | None:
        """An extent whose key and metadata take ``beside`` bytes of the capacity outside the arena."""
        return self._arena.allocate(length, granted, self._arena_limit_bytes() - beside)

    def _make_room(self, charge: int, whole: int, length: int) -> None:
        """Evict until ``charge`` more bytes fit, of a value that will take ``whole`` in the end."""
        if whole > self.capacity_bytes:
            raise self._rejection(
                f"a value of {length} bytes needs {whole} bytes and the tier has {self.capacity_bytes}"
            )
        # While a shrink is under way, an insert must not add to what is used.
        limit = max(self.capacity_bytes, self.used_bytes)
        if self._held_bytes + charge <= limit:
            while self.used_bytes + charge > limit and self._evict():
                pass
            if self.used_bytes + charge <= limit:
                return
        raise self._rejection(
            f"no room for a value of {length} bytes: "
            f"writes and replies in flight hold {self._held_bytes} bytes"
        )

    def _rejection(self, sentence: str) -> CapacityError:
        self.counters.rejected += 1
        return CapacityError(sentence)

    def _evict(self) -> bool:
        if self._flushed:
            self.free_flushed()
            return True
        key = self._index.victim()
        if key is None:
            return False
        entry = self._index.remove(key)
        assert entry is not None, "the policy holds a key that the index does not"
        self._count_eviction(entry)
        self._retire(entry)
        return True

    def _may_evict(self) -> bool:
        """Whether a shrink may evict now."""
        return True

    def _count_eviction(self, entry: Entry) -> None:
        self.counters.evictions += 1
        self.counters.evicted_bytes += entry.charge

    def _replace(self, entry: Entry) -> None:
        old = self._index.put(entry)
        if old is not None:
            self._retire(old)
        self.counters.sets += 1
        self.counters.written_bytes += entry.length

    def _retire(self, entry: Entry) -> None:
        entry.live = False
        if entry.pins:
            self._unindexed_bytes += entry.charge
        else:
            self._release(entry)

    def _release(self, entry: Entry) -> None:
        self.used_bytes -= entry.charge
        if entry.inline is None:
            self._arena.free(entry.start)
            self._freed_bytes += ENTRY_OVERHEAD_BYTES
        else:
            self._freed_bytes += entry.charge
        if self._freed_bytes > min(max(self.capacity_bytes // 64, COUNTED_BYTES), MOST_COUNTED_BYTES):
            self.count_memory()
