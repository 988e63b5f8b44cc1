"""Reading a segment from front to end while what was read before is looked at."""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory

WINDOW_BYTES = 1 << 20


class ReadAhead:
    """Two windows on one open file: one is looked at while a thread fills the other."""

    def __init__(self, directory: Directory, fd: int, reader: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._fd = fd
        self._reader = reader
        self._windows = [memoryview(mmap.mmap(-1, WINDOW_BYTES)) for _ in range(2)]
        self._ahead: tuple[int, Future[int]] | None = None

    def at(self, page: int, size_bytes: int) -> tuple[memoryview, int]:
        """At most ``size_bytes`` at ``page`` of the file: memory, until the next call, and the bytes in it.

        A whole window has the next one read ahead.

        Raises:
            OSError: the device failed.
        """
        self._windows.reverse()
        window, other = self._windows
        self.settle()  # also when it is of no use: it fills this window
        if self._ahead is not None and self._ahead[0] == page:
            got = self._ahead[1].result()
        else:
            got = self._directory.read(self._fd, [window[:size_bytes]], page * PAGE_BYTES)
        self._ahead = None
        if size_bytes == got == WINDOW_BYTES:
            following = page + WINDOW_BYTES // PAGE_BYTES
            fill = self._reader.submit(self._directory.read, self._fd, [other], following * PAGE_BYTES)
            self._ahead = following, fill
        return window, got

    def settle(self) -> None:
        """Wait for the thread."""
        if self._ahead is not None:
            self._ahead[1].exception()


@contextmanager
def read_ahead(directory: Directory, name: str, reader: ThreadPoolExecutor) -> Iterator[ReadAhead]:
    """A file of the directory for the time of a with block."""
    with directory.opened(name, os.O_RDONLY) as fd:
        windows = ReadAhead(directory, fd, reader)
        try:
            yield windows
        finally:
            windows.settle()
