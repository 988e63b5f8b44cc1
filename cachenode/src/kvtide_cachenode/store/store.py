"""The DRAM tier: a map from keys to bytes with a hard cap that counts everything."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from kvtide_cachenode.eviction import Policy
from kvtide_cachenode.store.arena import Arena, extent_bytes
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.scans import Scans

# LMCache stores a metadata object of some hundred bytes beside every block: a page each would waste most
# of it, so values up to this size live in the index.
INLINE_BYTES = 2048
# What one entry costs beside its key's and value's bytes: the entry, its places in two dictionaries and in
# the arena's books. Measured: 353 bytes for each of 200,000 inline entries, 294 for each of 50,000 extents;
# the rest is for dictionaries that have just doubled and for pages of which a part is free.
ENTRY_OVERHEAD_BYTES = 512


class CapacityError(Exception):
    """A value does not fit: it is larger than the tier, or what is there cannot be evicted now."""


@dataclass(slots=True)
class Counters:
    """What happened since the start, in events and bytes."""

    get_hits: int = 0
    get_misses: int = 0
    exists_hits: int = 0
    exists_misses: int = 0
    sets: int = 0
    deletes: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    rejected: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(slots=True)
class Reservation:
    """An extent that a value is being received into; nobody sees it before `Store.commit`."""

    memory: memoryview
    start: int
    charge: int


class Store:
    """Entries of one tier, evicted by ``policy`` so that ``used_bytes`` never exceeds ``capacity_bytes``.

    Every entry is charged the extent or inline bytes, its key and its metadata; so are reservations, and
    entries that were removed while a reply still sends them. Only while a shrink is under way is more used
    than the capacity, and then inserts evict at least what they add.
    """

    def __init__(self, capacity_bytes: int, max_bytes: int, policy: Policy[bytes]) -> None:
        assert 0 <= capacity_bytes <= max_bytes, "the capacity is between zero and max_bytes"
        self.capacity_bytes = capacity_bytes
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.counters = Counters()
        self._arena = Arena(max_bytes)
        self._index = Index(policy)
        self._held_bytes = 0  # charged to reservations and pinned entries: cannot be freed now
        self._unindexed_bytes = (
            0  # charged to reservations, removed entries that are still pinned, and beside
        )
        self._beside_bytes = 0
        self.tiered = False
        self.unsettled = False
        self.exists: Callable[[bytes], bool] = self._index.contains
        self.scan = Scans(self.keys, self.exists).scan
        self.peek = self._index.find

    def __len__(self) -> int:
        return len(self._index)

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
        """Keys that can be read."""
        return len(self._index)

    def hottest(self) -> list[bytes]:
        """The keys of this tier, the one that the policy would give up last first."""
        return self._index.hottest()

    def keys(self) -> list[bytes]:
        """All keys that can be read, in no particular order."""
        return self._index.keys()

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

    def pin(self, entry: Entry) -> memoryview:
        """The bytes of a live entry outside the index; they stay as they are until `unpin`."""
        assert entry.live, "pin of a removed entry"
        if not entry.pins:
            self._held_bytes += entry.charge
        entry.pins += 1
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
            reservation = self.reserve(key, length)
            reservation.memory[:] = value
            self.commit(key, reservation)
            return
        charge = length + len(key) + ENTRY_OVERHEAD_BYTES
        self._make_room(charge, length)
        self._replace(Entry(key, length, charge, value, -1))
        self.used_bytes += charge
        if self.over_capacity():  # warm pages make way for what grew outside the arena
            self._arena.trim(self.capacity_bytes - self.used_bytes + self._arena.used_bytes)

    def reserve(self, key: bytes, length: int) -> Reservation:
        """Memory for a value of ``length`` bytes that is to be received; evicts what must go for it.

        Raises:
            CapacityError: it does not fit.
        """
        beside = len(key) + ENTRY_OVERHEAD_BYTES
        charge = extent_bytes(length) + beside
        self._make_room(charge, length)
        start = self._allocate(length, beside)
        while start is None:  # no address range is long enough: free ones grow together as entries go
            if not self._evict():
                self.counters.rejected += 1
                raise CapacityError(f"no contiguous room for a value of {length} bytes")
            self._arena.trim(0)
            start = self._allocate(length, beside)
        self.used_bytes += charge
        self._held_bytes += charge
        self._unindexed_bytes += charge
        return Reservation(self._arena.view(start, length), start, charge)

    def commit(self, key: bytes, reservation: Reservation) -> None:
        """Make a received value visible under its key, in place of what was there."""
        self._held_bytes -= reservation.charge
        self._unindexed_bytes -= reservation.charge
        length = len(reservation.memory)
        self._replace(Entry(key, length, reservation.charge, None, reservation.start))

    def abort(self, reservation: Reservation) -> None:
        """Give up a reservation; its key keeps what it has."""
        self._held_bytes -= reservation.charge
        self._unindexed_bytes -= reservation.charge
        self.used_bytes -= reservation.charge
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
        """Remove every key."""
        for entry in self._index.entries():
            self.delete(entry.key)

    def set_capacity(self, capacity_bytes: int) -> None:
        """Change the cap. A smaller one holds for new values at once; `shrink` brings the rest under it."""
        assert 0 <= capacity_bytes <= self.max_bytes, "the capacity is between zero and max_bytes"
        self.capacity_bytes = capacity_bytes

    def shrink(self, slice_bytes: int) -> bool:
        """Evict and give back pages, about ``slice_bytes`` of each; whether something was left to do."""
        before = self.used_bytes
        while self.used_bytes > self.capacity_bytes and before - self.used_bytes < slice_bytes:
            if not (self._may_evict() and self._evict()):
                break
        outside = self.used_bytes - self._arena.used_bytes
        given_back = self._arena.trim(self.capacity_bytes - outside, slice_bytes)
        return given_back > 0 or self.used_bytes != before

    def over_capacity(self) -> bool:
        """Whether more is used or resident than the capacity allows: a shrink is not finished."""
        arena = self._arena
        return self.used_bytes + arena.warm_bytes > self.capacity_bytes

    async def maintain(self) -> None:
        """What has to be done about once a second: nothing, without a tier below."""

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        self._arena.check()
        charged = sum(entry.charge for entry in self._index.entries())
        assert self.used_bytes == charged + self._unindexed_bytes, "used bytes differ from what is charged"
        pinned = sum(entry.charge for entry in self._index.entries() if entry.pins)
        assert self._held_bytes == pinned + self._unindexed_bytes, "held bytes differ"
        assert all(entry.live for entry in self._index.entries()), "the index holds a removed entry"

    def _allocate(self, length: int, beside: int) -> int | None:
        """An extent whose key and metadata take ``beside`` bytes of the capacity outside the arena."""
        arena = self._arena
        return arena.allocate(length, self.capacity_bytes - beside - self.used_bytes + arena.used_bytes)

    def _make_room(self, charge: int, length: int) -> None:
        """Evict until ``charge`` more bytes fit."""
        if self.used_bytes + charge <= self.capacity_bytes:
            return
        # While a shrink is under way, an insert must not add to what is used.
        limit = max(self.capacity_bytes, self.used_bytes)
        if charge > self.capacity_bytes:
            self.counters.rejected += 1
            raise CapacityError(
                f"a value of {length} bytes needs {charge} bytes and the tier has {self.capacity_bytes}"
            )
        if self._held_bytes + charge > limit:
            self.counters.rejected += 1
            raise CapacityError(
                f"no room for a value of {length} bytes: "
                f"writes and replies in flight hold {self._held_bytes} bytes"
            )
        while self.used_bytes + charge > limit:
            evicted = self._evict()
            assert evicted, "what is not held can be evicted"

    def _evict(self) -> bool:
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

    def _charge_beside(self, size_bytes: int) -> None:
        """What something beside the entries takes of the capacity from now on, in place of what it took."""
        more = size_bytes - self._beside_bytes
        self._beside_bytes = size_bytes
        self.used_bytes += more
        self._held_bytes += more
        self._unindexed_bytes += more

    def _replace(self, entry: Entry) -> None:
        old = self._index.remove(entry.key)
        if old is not None:
            self._retire(old)
        self._index.insert(entry)
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
