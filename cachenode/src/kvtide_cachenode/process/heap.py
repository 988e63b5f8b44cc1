"""What this process holds in memory, as the kernel counts it, and giving back what the allocator keeps."""

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
# From this size on a buffer is mapped alone and given back when it is freed.
MAPPED_BYTES: Final = 128 * 1024
# Giving back looks at every free piece of the heap and lets nobody else allocate: 28 ms for 360,000 pieces of
# 600 bytes that were freed here and there (measured). What it has left does not go back soon after, either:
# it is tried again when there is more by this part of that.
GROWTH_SHARE: Final = 1 / 4
_RESIDENT_FIELD: Final = 1


def resident_bytes() -> int:
    """Physical memory of the process, shared memory included."""
    return int(Path("/proc/self/statm").read_text().split()[_RESIDENT_FIELD]) * mmap.PAGESIZE


class Heap:
    """The allocator of this process: ``trim`` gives back free pages; where libc has none, nothing does."""

    def __init__(self, trim: Callable[[], object], resident: Callable[[], int] = resident_bytes) -> None:
        self.resident_bytes = resident
        self._trim = trim
        self._left_bytes = 0

    def give_back(self, surplus_bytes: int, step_bytes: int) -> int:
        """Give free pages back to the system where the process has a surplus; what of that is left.

        It takes time: nothing is done before the surplus is larger by ``step_bytes`` than what was left last.
        """
        self._left_bytes = min(self._left_bytes, surplus_bytes)
        if surplus_bytes - self._left_bytes > max(step_bytes, GROWTH_SHARE * self._left_bytes):
            before_bytes = self.resident_bytes()
            self._trim()
            self._left_bytes = max(surplus_bytes - before_bytes + self.resident_bytes(), 0)
            return self._left_bytes
        return surplus_bytes


def process_heap() -> Heap:
    """This process's heap, told to keep little."""
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)
    option = getattr(libc, "mallopt", None)
    if option is not None:
        # Set once, or glibc moves them up with every large buffer that is freed, and keeps the next ones.
        option(M_MMAP_THRESHOLD, MAPPED_BYTES)
        option(M_TRIM_THRESHOLD, MAPPED_BYTES)
        option(M_ARENA_MAX, 2)  # threads read and write the SSD and allocate next to nothing
    return Heap((lambda: None) if trim is None else lambda: trim(0))
