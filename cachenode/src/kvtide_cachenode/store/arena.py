"""The DRAM arena: contiguous extents in one sparse memory file.

What counts is physical pages, not addresses: the mapping is many times larger than the memory it may use, so
an extent is always contiguous and nothing is ever moved. An extent is *used*, *warm* (free, its pages still
resident, handed out again to the next request of exactly its size) or *cold* (addresses without pages).

A used extent has pages as far as it was *granted*: a value that is still being received counts for what it
may have brought, not for what it announced.
"""

import mmap
import os
from collections import OrderedDict
from functools import lru_cache

from kvtide_cachenode.store.ranges import FreeRanges

PAGE_BYTES = mmap.PAGESIZE
# An extent's size is a multiple of 1/32 of the power of two below it: at most 1/32 is rounding.
SIZE_STEPS = 32
# Socket buffers begin on pages, too, and a copy between nearly equal offsets in a page runs at about half the
# speed on some processors (measured on AMD Zen 4; the kernel copies with `rep movsb`): where there is room, a
# value begins in the middle of a page. From LEAD_FROM_BYTES on there always is; that costs a page where the
# length fills the extent.
LEAD_BYTES = PAGE_BYTES // 2
LEAD_FROM_BYTES = 64 * 1024
LEAD_ALIGNMENT = 64  # a cache line
# First fit never needs more than log2(largest / smallest extent) times the memory in use (Robson 1977);
# 512 MiB / 4 KiB gives 17. Best fit has no such bound but does no worse in practice, and when addresses do
# run out `allocate` says so and the store evicts.
ADDRESSES_PER_BYTE = 32


@lru_cache(maxsize=4096)  # a cache holds few lengths, and every insertion asks several times
def extent_bytes(length: int) -> int:
    """Size of the extent for ``length`` bytes: whole pages, at most 1/32 and a page more than needed."""
    quantum = max(PAGE_BYTES, (1 << max(length.bit_length() - 1, 0)) // SIZE_STEPS)
    size = max(-(-length // quantum), 1) * quantum
    return size + PAGE_BYTES if length >= LEAD_FROM_BYTES and size - length < LEAD_BYTES else size


@lru_cache(maxsize=4096)
def _lead_bytes(length: int) -> int:
    """Where in its extent a value of ``length`` bytes begins."""
    return min(LEAD_BYTES, extent_bytes(length) - length) // LEAD_ALIGNMENT * LEAD_ALIGNMENT


class Arena:
    """Extents of up to ``max_bytes`` of physical memory altogether, given out as memoryviews.

    The arena does its own books and never touches an extent's contents. How much may be resident is said on
    each call, because the store charges keys and metadata to the same budget.
    """

    def __init__(self, max_bytes: int) -> None:
        size = extent_bytes(max_bytes) * ADDRESSES_PER_BYTE
        self._fd = os.memfd_create("kvtide-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, size)
            self._map = mmap.mmap(self._fd, size, mmap.MAP_SHARED)
        except BaseException:
            os.close(self._fd)
            raise
        self._map.madvise(mmap.MADV_DONTDUMP)  # a core dump must not walk terabytes of holes
        self._view = memoryview(self._map)
        self._cold = FreeRanges(size)
        self._warm_by_age: OrderedDict[int, int] = OrderedDict()
        self._warm_by_size: dict[int, list[int]] = {}
        self._used: dict[int, int] = {}
        self._granted: dict[int, int] = {}  # of used extents that were not granted whole
        self._warm_tails: dict[int, int] = {}  # what such an extent, warm before, has beyond that
        self.used_bytes = 0
        self.promised_bytes = 0
        self.warm_bytes = 0
        self.wasted_bytes = 0

    def allocate(self, length: int, granted_bytes: int, resident_limit_bytes: int) -> int | None:
        """Start of an extent for ``length`` bytes, the first ``granted_bytes`` of the extent to be used.

        None when no address range is free. Warm extents, oldest first, lose their pages until used and warm
        fit ``resident_limit_bytes``.
        """
        size = extent_bytes(length)
        same_size = self._warm_by_size.get(size)
        if same_size:
            start = same_size.pop()
            del self._warm_by_age[start]
            self.warm_bytes -= granted_bytes
            if granted_bytes < size:
                self._warm_tails[start] = size - granted_bytes
        else:
            self.trim(resident_limit_bytes - granted_bytes)
            cold = self._cold.take(size)
            if cold is None:
                return None
            start = cold
        if granted_bytes < size:
            self._granted[start] = granted_bytes
            self.promised_bytes += size - granted_bytes
        self._used[start] = length
        self.used_bytes += granted_bytes
        self.wasted_bytes += size - length
        return start

    def grant(self, start: int, granted_bytes: int, resident_limit_bytes: int) -> None:
        """Let more of a used extent be used than before."""
        size = extent_bytes(self._used[start])
        more = granted_bytes - self._granted[start]
        if start in self._warm_tails:
            self.warm_bytes -= more
            self._warm_tails[start] -= more
        else:
            self.trim(resident_limit_bytes - more)
        self._granted[start] = granted_bytes
        if granted_bytes == size:
            del self._granted[start]
            self._warm_tails.pop(start, None)
        self.promised_bytes -= more
        self.used_bytes += more

    def view(self, start: int, length: int) -> memoryview:
        """The value of ``length`` bytes in a used extent, writable, without a copy."""
        start += _lead_bytes(length)
        return self._view[start : start + length]

    def free(self, start: int) -> None:
        """Give an extent back; it stays warm until `trim` needs its pages."""
        length = self._used.pop(start)
        size = extent_bytes(length)
        self.wasted_bytes -= size - length
        granted_bytes = self._granted.pop(start, size)
        self.used_bytes -= granted_bytes
        self.promised_bytes -= size - granted_bytes
        if granted_bytes < size and not self._warm_tails.pop(start, 0):
            self._map.madvise(mmap.MADV_REMOVE, start, granted_bytes)
            self._cold.give(start, size)
            return
        self.warm_bytes += granted_bytes
        self._warm_by_age[start] = size
        self._warm_by_size.setdefault(size, []).append(start)

    def trim(self, resident_limit_bytes: int, at_most_bytes: int | None = None) -> int:
        """Return pages of warm extents to the system until used and warm fit the limit.

        Stops after ``at_most_bytes`` so that a caller can yield. Returns the bytes given back.
        """
        given_back = 0
        while self._warm_by_age and self.used_bytes + self.warm_bytes > resident_limit_bytes:
            if at_most_bytes is not None and given_back >= at_most_bytes:
                break
            start, size = self._warm_by_age.popitem(last=False)
            same_size = self._warm_by_size[size]
            same_size.remove(start)
            if not same_size:
                del self._warm_by_size[size]
            self._map.madvise(mmap.MADV_REMOVE, start, size)
            self._cold.give(start, size)
            self.warm_bytes -= size
            given_back += size
        while self._warm_tails and self.used_bytes + self.warm_bytes > resident_limit_bytes:
            start, tail = self._warm_tails.popitem()
            end = start + extent_bytes(self._used[start])
            self._map.madvise(mmap.MADV_REMOVE, end - tail, tail)
            self.warm_bytes -= tail
            given_back += tail
        return given_back

    def resident_bytes(self) -> int:
        """Physical memory behind the arena, as the kernel counts it."""
        return os.fstat(self._fd).st_blocks * 512

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        used = {start: extent_bytes(length) for start, length in self._used.items()}
        granted = used | self._granted
        assert granted.keys() == used.keys(), "a free extent is granted"
        assert self.used_bytes == sum(granted.values()), "used bytes differ from the used extents"
        assert self.promised_bytes == sum(used.values()) - self.used_bytes, "promised bytes differ"
        assert self.wasted_bytes == sum(used.values()) - sum(self._used.values()), "wasted bytes differ"
        tails = self._warm_tails
        assert all(tail == used[at] - granted[at] for at, tail in tails.items()), "a tail's size differs"
        warm_bytes = sum(self._warm_by_age.values()) + sum(tails.values())
        assert self.warm_bytes == warm_bytes, "warm bytes differ from the warm extents"
        warm = {start: size for size, starts in self._warm_by_size.items() for start in starts}
        assert warm == dict(self._warm_by_age), "the two lists of warm extents differ"
        at = 0
        for start, size in sorted([*used.items(), *warm.items(), *self._cold.ranges()]):
            assert start == at, f"a gap or an overlap at address {at}"
            at = start + size
        assert at == len(self._view), "the extents do not cover the address space"
        assert self.resident_bytes() <= self.used_bytes + self.warm_bytes, "cold addresses have pages"
