"""What this process holds in memory, as the kernel counts it, and giving back what the allocator keeps."""

import ctypes
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
# From this size on a buffer is mapped alone and given back when it is freed.
MAPPED_BYTES: Final = 128 * 1024
# Giving back looks at every free piece of the heap and lets nobody else allocate: a hundredth of a second for
# 50 MiB of small pieces. So it takes at most a tenth of the time, and much less where it brings little; but
# the more is waited for, the longer it then takes: 50 ms for 440 MiB at once, 25 ms where it comes in parts.
PAUSE_FACTOR: Final = 10
FRUITLESS_FACTOR: Final = 100
FRUITFUL_BYTES_PER_S: Final = 1 << 30
_RESIDENT_FIELD: Final = 1


def resident_bytes() -> int:
    """Physical memory of the process, shared memory included."""
    return int(Path("/proc/self/statm").read_text().split()[_RESIDENT_FIELD]) * mmap.PAGESIZE


class Heap:
    """The allocator of this process: ``trim`` gives back free pages; where libc has none, nothing does."""

    def __init__(
        self,
        trim: Callable[[], object],
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.resident_bytes = resident
        self._trim = trim
        self._clock = clock
        self._not_before_s = 0.0

    def give_back(self) -> bool:
        """Give free pages back to the system unless that was done lately; whether it was done."""
        began_s = self._clock()
        if began_s < self._not_before_s:
            return False
        before_bytes = self.resident_bytes()
        self._trim()
        ended_s = self._clock()
        took_s, gained_bytes = ended_s - began_s, before_bytes - self.resident_bytes()
        fruitful = gained_bytes >= took_s * FRUITFUL_BYTES_PER_S
        self._not_before_s = ended_s + took_s * (PAUSE_FACTOR if fruitful else FRUITLESS_FACTOR)
        return True


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
