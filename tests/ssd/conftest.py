"""What the tests of the log share: a clock, page-aligned memory, and files that fail on demand."""

import errno
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kvtide_cachenode.store.ssd.files import Files
from kvtide_cachenode.store.ssd.log import SsdLog


def keys_of(log: SsdLog) -> list[bytes]:
    """The keys that can be read."""
    return [key for key in log.rows if log.contains(key)]


class Clock:
    """Unix time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class FaultyFiles(Files):
    """Files whose ``operation`` fails from its ``nth`` call on, ``times`` times.

    ``kind`` is an errno, or "short": a transfer moves only half of what it should. While ``gate`` is clear,
    transfers (those named in ``gated``) wait for it; ``held`` says that one does.
    """

    def __init__(
        self,
        operation: str = "",
        nth: int = 0,
        kind: int | str = errno.EIO,
        times: int = 1,
        direct: bool = True,
    ) -> None:
        self.operation = operation
        self.nth = nth
        self.kind = kind
        self.times = times
        self.direct = direct
        self.calls = 0
        self.failed = 0
        self.armed = True
        self.gate = threading.Event()
        self.gate.set()
        self.gated = {"preadv", "pwritev"}
        self.held = threading.Event()
        self._lock = threading.Lock()

    def _pass_gate(self, operation: str) -> None:
        if operation in self.gated and not self.gate.is_set():
            self.held.set()
            self.gate.wait()

    def _fails(self, operation: str) -> bool:
        with self._lock:
            if operation != self.operation or not self.armed:
                return False
            self.calls += 1
            if not self.nth <= self.calls < self.nth + self.times:
                return False
            self.failed += 1
        if isinstance(self.kind, int):
            raise OSError(self.kind, os.strerror(self.kind))
        return True

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_DIRECT and not self.direct:
            raise OSError(errno.EINVAL, "no direct I/O here")
        self._fails("open")
        return super().open(path, flags)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._pass_gate("preadv")
        if self._fails("preadv"):
            return super().preadv(fd, half(buffers), offset)
        return super().preadv(fd, buffers, offset)

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._pass_gate("pwritev")
        if self._fails("pwritev"):
            return super().pwritev(fd, half(buffers), offset)
        return super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._fails("fdatasync")
        super().fdatasync(fd)

    def replace(self, source: str, target: str) -> None:
        self._fails("replace")
        super().replace(source, target)

    def unlink(self, path: str) -> None:
        self._fails("unlink")
        super().unlink(path)

    def status(self, fd: int) -> os.stat_result:
        self._fails("status")
        return super().status(fd)


def half(buffers: Sequence[memoryview]) -> list[memoryview]:
    """The first half of the buffers' pages; one page becomes none."""
    left = sum(map(len, buffers)) // 8192 * 4096
    kept = []
    for buffer in buffers:
        kept.append(buffer[:left])
        left -= len(kept[-1])
    return kept


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faulty_files() -> type[FaultyFiles]:
    return FaultyFiles


def make_pages(length: int) -> memoryview:
    """Zeroed memory that starts on a page."""
    return memoryview(mmap.mmap(-1, max(length, 1)))[:length]


@pytest.fixture
def pages() -> Callable[[int], memoryview]:
    return make_pages


@pytest.fixture
def target() -> memoryview:
    return make_pages(8 << 20)


def make_content(key: bytes, version: int, length: int) -> bytes:
    """A value that tells whose it is in every 32 bytes."""
    unit = b"%-20s%012d" % (key[:20], version)
    return (unit * (length // 32 + 1))[:length]


async def make_crashed(log, path: Path, to: Path) -> Path:
    """A copy of the log's directory as a killed process leaves it; no write may be under way."""
    await log._cleaner.settle(5.0)
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(path, to, ignore=shutil.ignore_patterns("lock"))
    return to


@pytest.fixture
def crashed():
    return make_crashed


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory where there is one: the many short stories need no disk."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture
def content() -> Callable[[bytes, int, int], bytes]:
    return make_content
