"""The memory of the DRAM tier: the arena, the index, and what everything is charged."""

import sys
from typing import Final

from kvtide_cachenode.contract.sizing import PROCESS_BYTES
from kvtide_cachenode.placement import Policy
from kvtide_cachenode.process.heap import Heap
from kvtide_cachenode.store.arena import Arena
from kvtide_cachenode.store.counters import Counters
from kvtide_cachenode.store.form import RAW
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.reservation import CapacityError

# What one entry costs beside its key's and value's bytes: the entry, its places in two dictionaries, among
# the keys and in the arena's books. Measured, with LRU: 353 bytes for each of 200,000 inline entries, 294 for
# each of 50,000 extents; but once others were evicted, dictionaries have room for two to four times as many:
# 505 bytes for each of 500,000 and 612 for each of 175,792, which is about the worst.
ENTRY_OVERHEAD_BYTES: Final = 640
# Memory is counted anew when a 64th of the capacity was freed outside the arena, within these bounds.
COUNTED_BYTES: Final = 4 * 1024 * 1024
MOST_COUNTED_BYTES: Final = 64 * 1024 * 1024
# What may go back to the system is tried for when there is such a part of the capacity more of it.
GIVE_BACK_STEPS: Final = 64
# Kept free of the process's own share for what comes between two counts: more with a larger tier, whose
# counts are farther apart. Measured with 64 MiB: pipelines of 16 clients, split, are 8 MiB for a moment.
UNCOUNTED_BYTES: Final = 8 * 1024 * 1024
UNCOUNTED_SHARE: Final = 1 / 64
HEAP: Final = "heap"
# Evicted and given back between two turns of the loop: half a millisecond, so that replies do not wait.
SLICE_BYTES: Final = 2 * 1024 * 1024
# A slice ends after so many entries, however small they are.
SLICE_ENTRIES: Final = 512


class Room:
    """Entries, evicted by ``policy`` so that ``used_bytes`` never exceeds ``capacity_bytes``.

    Every entry is charged the extent or inline bytes, its key and its metadata; so are reservations, as far
    as they were granted, entries that were removed while a reply still sends them, and what the process
    holds besides (`count_memory`). Only while a shrink is under way is more used than the capacity, and then
    inserts evict at least what they add.
    """

    def __init__(self, capacity_bytes: int, max_bytes: int, policy: Policy[bytes]) -> None:
        assert 0 <= capacity_bytes <= max_bytes, "the capacity is between zero and max_bytes"
        self.capacity_bytes = capacity_bytes
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.counters = Counters()
        self._arena = Arena(max_bytes)
        # Charged to reservations, pinned entries, and beside: cannot be freed now.
        self._held_bytes = 0
        # Of that, what is charged to no entry in an index.
        self._unindexed_bytes = 0
        self._beside: dict[str, int] = {}
        self._owed_bytes = 0  # of that, what nothing has made way for yet
        self._heap: Heap | None = None
        self._freed_bytes = 0  # outside the arena, since memory was counted last
        self._counted_bytes = COUNTED_BYTES  # when so much was, it is counted anew
        self._flushed: list[Index] = []
        self._use(Index(policy))

    def _use(self, index: Index) -> None:
        self._index = index

    @property
    def wasted_bytes(self) -> int:
        """Rounding of extents, the only internal fragmentation."""
        return self._arena.wasted_bytes

    def resident_bytes(self) -> int:
        """Physical memory of the tier: the arena's pages and what is charged outside it."""
        return self._arena.resident_bytes() + self.used_bytes - self._arena.used_bytes

    def encoded(self, entry: Entry) -> bytes | memoryview:
        """A live entry's value as it lies there: bytes, or a view that is pinned until `unpin`."""
        return self.pin(entry) if entry.inline is None else entry.inline

    def decoded(self, entry: Entry) -> bytes | memoryview:
        """A live entry's value as it was stored: bytes, or a view that is pinned until `unpin`."""
        if entry.form is not RAW:
            return entry.form.decoded(self.view(entry))
        return self.pin(entry) if entry.inline is None else entry.inline

    def view(self, entry: Entry) -> bytes | memoryview:
        """A live entry's value as it lies there, until something else happens to the store."""
        return self._arena.view(entry.start, entry.length) if entry.inline is None else entry.inline

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

    def watch_memory(self, heap: Heap) -> None:
        """From now on charge what the process holds that nothing else accounts for.

        Freed memory may stay with the allocator, in pages that other objects are on.
        """
        self._heap = heap
        self.count_memory()

    def count_memory(self) -> None:
        """Ask what the process holds, and charge what of it is not accounted for and does not go back."""
        self._freed_bytes = 0
        self._counted_bytes = min(max(self.capacity_bytes // 64, COUNTED_BYTES), MOST_COUNTED_BYTES)
        heap = self._heap
        if heap is None:
            return
        own_bytes = PROCESS_BYTES - UNCOUNTED_BYTES - int(UNCOUNTED_SHARE * self.capacity_bytes)
        accounted = own_bytes + self.resident_bytes() - self._beside.get(HEAP, 0)
        more = max(heap.resident_bytes() - accounted, 0)
        self.charge_beside(HEAP, heap.give_back(more, self.capacity_bytes // GIVE_BACK_STEPS))

    def charge_beside(self, what: str, size_bytes: int) -> None:
        """What something beside the entries takes of the capacity from now on, in place of what it took."""
        more = size_bytes - self._beside.get(what, 0)
        self._beside[what] = size_bytes
        self._hold(more)
        over = max(self.used_bytes - self.capacity_bytes, 0)
        self._owed_bytes = min(max(self._owed_bytes + more, 0), over)

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

    def _make_room(self, charge: int, whole: int, length: int, most_evicted: int = sys.maxsize) -> bool:
        """Evict until ``charge`` more bytes fit, of a value that will take ``whole`` in the end.

        False where they do not after ``most_evicted`` entries.
        """
        if whole > self.capacity_bytes:
            raise self._rejection(
                f"a value of {length} bytes needs {whole} bytes and the tier has {self.capacity_bytes}"
            )
        # While a shrink is under way, an insert must not add to what is used.
        limit = max(self.capacity_bytes, self.used_bytes)
        if self._held_bytes + charge <= limit:
            while self.used_bytes + charge > limit and self._evict():
                most_evicted -= 1
                if not most_evicted:
                    return False
            if self.used_bytes + charge <= limit:
                if self._owed_bytes:
                    self._catch_up(charge, most_evicted)
                return True
        beside = sum(self._beside.values())
        raise self._rejection(
            f"no room for a value of {length} bytes: writes and replies in flight hold "
            f"{self._held_bytes - beside} bytes, clients, the SSD's index and the process {beside}"
        )

    def _catch_up(self, charge: int, most_evicted: int) -> None:
        """Evict as much again for what was charged beside the entries: else only upkeep makes way."""
        before = self.used_bytes
        enough = max(before - min(charge, self._owed_bytes), self.capacity_bytes - charge)
        while most_evicted and self.used_bytes > enough and self._may_evict() and self._evict():
            most_evicted -= 1
        self._owed_bytes = max(self._owed_bytes - before + self.used_bytes, 0)

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
        if self._freed_bytes > self._counted_bytes:
            self.count_memory()
