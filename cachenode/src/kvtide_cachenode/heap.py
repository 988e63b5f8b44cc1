"""What this process holds in memory, as the kernel counts it, and giving back what the allocator keeps."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
# From this size on a buffer is mapped alone and given back when it is freed.
MAPPED_BYTES: Final = 128 * 1024
_RESIDENT_FIELD: Final = 1


class Heap:
    """The allocator of this process; where libc is not glibc, it is only measured."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", _untrimmed)
        option = getattr(libc, "mallopt", None)
        if option is not None:
            # Set once, or glibc moves them up with every large buffer that is freed, and keeps the next ones.
            option(M_MMAP_THRESHOLD, MAPPED_BYTES)
            option(M_TRIM_THRESHOLD, MAPPED_BYTES)
            option(M_ARENA_MAX, 2)  # threads read and write the SSD and allocate next to nothing

    def resident_bytes(self) -> int:
        """Physical memory of the process, shared memory included, after free pages went back."""
        self._trim(0)
        return int(os.pread(self._fd, 256, 0).split()[_RESIDENT_FIELD]) * mmap.PAGESIZE


def resident_bytes() -> int:
    """Physical memory of the process, shared memory included."""
    return int(Path("/proc/self/statm").read_text().split()[_RESIDENT_FIELD]) * mmap.PAGESIZE


def _untrimmed(_keep_bytes: int) -> int:
    return 0
