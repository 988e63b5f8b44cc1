"""The log's way to its directory: direct I/O where the file system has it, an empty page cache where not.

The page cache of these files would be counted as the container's memory, so nothing may stay in it. `Files`
are the plain system calls, passed in so that a test can make any of them fail; `Directory` is what the log
uses.
"""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

# Direct I/O wants addresses, offsets and lengths in multiples of the logical block size, 512 or 4096 bytes.
PAGE_BYTES = 4096
# Many devices take memory that is aligned to their sectors only; it is tried out.
SECTOR_BYTES = 512
_LOCK_NAME = "lock"
_PROBE_NAME = "probe.tmp"


class SsdLogError(Exception):
    """The log cannot be opened; the message names the directory and the cure."""


class Files:
    """The system calls of the log. Each raises OSError and nothing else."""

    def open(self, path: str, flags: int) -> int:
        """A file descriptor; a created file is private to its user."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Read into the buffers; returns the bytes read."""
        return os.preadv(fd, buffers, offset)

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Write the buffers; returns the bytes written."""
        return os.pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        """Wait until the device has the file's data for good."""
        os.fdatasync(fd)

    def drop_cache(self, fd: int) -> None:
        """Take the file's clean pages out of the page cache."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def status(self, fd: int) -> os.stat_result:
        """Size and blocks of an open file."""
        return os.fstat(fd)

    def replace(self, source: str, target: str) -> None:
        """Rename over ``target``, atomically."""
        Path(source).replace(target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        Path(path).unlink()

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        return [path.name for path in Path(directory).iterdir()]


class Directory:
    """One directory of files that are read and written around the page cache.

    ``direct`` says whether the file system takes O_DIRECT; where it does not, every write is synced and every
    access is followed by POSIX_FADV_DONTNEED. Buffers passed in start on a page and have whole pages.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._path = str(path)
        self._files = files
        self._lock_fd = -1
        self._owning = Lock()
        self.direct = True
        self.memory_alignment = PAGE_BYTES

    def lock(self) -> None:
        """Make the directory, own it until `unlock`, and find out whether it takes direct I/O.

        Raises:
            SsdLogError: it cannot be used, or another process has it.
        """
        try:
            Path(self._path).mkdir(parents=True, exist_ok=True)
            self._lock_fd = self._files.open(self._name(_LOCK_NAME), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise SsdLogError(
                f"{self._path}: {error.strerror}; give a directory that can be written"
            ) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            raise SsdLogError(f"{self._path} is in use by another process; give each node its own") from error
        self.direct = self._takes_direct(0)
        if self.direct and self._takes_direct(SECTOR_BYTES):
            self.memory_alignment = SECTOR_BYTES

    def own(self) -> None:
        """Lock the directory anew where it is another one than was locked: removed and made again.

        Raises:
            OSError: another process has it by now.
        """
        with self._owning:
            fd = self._files.open(self._name(_LOCK_NAME), os.O_RDWR | os.O_CREAT)
            try:
                if self._files.status(fd).st_ino != self._files.status(self._lock_fd).st_ino:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fd, self._lock_fd = self._lock_fd, fd
            finally:
                self._files.close(fd)

    def unlock(self) -> None:
        """Let go of the directory."""
        if self._lock_fd >= 0:
            self._files.close(self._lock_fd)
            self._lock_fd = -1

    def _takes_direct(self, memory_offset: int) -> bool:
        """Whether a page may be written directly from memory at this offset in a page."""
        page = memoryview(mmap.mmap(-1, 2 * PAGE_BYTES))[memory_offset : memory_offset + PAGE_BYTES]
        name = self._name(_PROBE_NAME)
        try:
            fd = self._files.open(name, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
            try:
                return self._files.pwritev(fd, [page], 0) == PAGE_BYTES
            finally:
                self._files.close(fd)
        except OSError as error:
            # A full or failing disk says nothing about direct I/O: stay with it, the writes will tell.
            return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)
        finally:
            self.remove(_PROBE_NAME)

    def _name(self, name: str) -> str:
        return f"{self._path}/{name}"

    @contextmanager
    def opened(self, name: str, flags: int) -> Iterator[int]:
        """A descriptor for the time of a with block; an open costs 3 us, so none is kept."""
        fd = self._files.open(self._name(name), flags | (os.O_DIRECT if self.direct else 0))
        try:
            yield fd
        finally:
            if not self.direct:
                self._files.drop_cache(fd)
            self._files.close(fd)

    def read(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill the buffers as far as the file goes; returns whole pages' bytes."""
        total = 0
        wanted = sum(map(len, buffers))
        while total < wanted:
            got = self._files.preadv(fd, _from(buffers, total), offset + total)
            if got < PAGE_BYTES:
                break
            total += got - got % PAGE_BYTES
        return total

    def write(self, fd: int, buffers: Sequence[memoryview], offset: int) -> None:
        """Write all of the buffers, going on after a short write.

        Raises:
            OSError: also when a write makes no progress (EIO).
        """
        total = 0
        wanted = sum(map(len, buffers))
        while total < wanted:
            put = self._files.pwritev(fd, _from(buffers, total), offset + total)
            if put < PAGE_BYTES:
                raise OSError(errno.EIO, "a write made no progress")
            total += put - put % PAGE_BYTES
        if not self.direct:
            self._files.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """Make a file's data outlive a power cut."""
        self._files.fdatasync(fd)

    def sync_names(self) -> None:
        """Make creations, renames and removals outlive a power cut."""
        fd = self._files.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def disk_bytes(self, fd: int) -> int:
        """What the disk holds of an open file, in bytes."""
        return self._files.status(fd).st_blocks * 512

    def size(self, fd: int) -> int:
        """Length of an open file."""
        return self._files.status(fd).st_size

    def replace(self, source: str, target: str) -> None:
        """Rename ``source`` over ``target`` and make that last."""
        self._files.replace(self._name(source), self._name(target))
        self.sync_names()

    def remove(self, name: str) -> bool:
        """Remove a file; whether it is gone now."""
        try:
            self._files.unlink(self._name(name))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def names(self) -> list[str]:
        """Names of the directory's files."""
        return self._files.names(self._path)

    def total_disk_bytes(self) -> int:
        """What the disk holds of all files here, as the kernel counts it."""
        states = [os.lstat(self._name(name)) for name in self.names()]
        return sum(state.st_blocks * 512 for state in states if stat.S_ISREG(state.st_mode))


def _from(buffers: Sequence[memoryview], skip: int) -> list[memoryview]:
    """The buffers without their first ``skip`` bytes."""
    rest = []
    for buffer in buffers:
        if skip < len(buffer):
            rest.append(buffer[skip:])
            skip = 0
        else:
            skip -= len(buffer)
    return rest
