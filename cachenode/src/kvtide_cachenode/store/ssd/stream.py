"""A value in pieces, from the device through two small buffers: for what memory should not hold."""

import asyncio
import mmap
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from kvtide_cachenode.store.ssd.books import Books
from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool, Job
from kvtide_cachenode.store.ssd.limits import Limits, Retention
from kvtide_cachenode.store.ssd.reader import wait_whatever_happens
from kvtide_cachenode.store.ssd.record import HEADER_BYTES, Header, checksum, decode_header, is_inline
from kvtide_cachenode.store.ssd.record_io import is_record
from kvtide_cachenode.store.ssd.results import Counters, Miss

PIECE_BYTES: Final = 1024 * 1024
# With two pieces each this is 8 MiB; further ones wait for their turn.
STREAMS: Final = 4


class StreamBrokenError(Exception):
    """A value cannot be read to its end, or is not what was written; its last piece was not given out."""


class Streams:
    """What all streams of a log share."""

    def __init__(
        self,
        books: Books,
        directory: Directory,
        pool: IoPool,
        retention: Retention,
        counters: Counters,
        limits: Limits,
    ) -> None:
        self.books = books
        self.directory = directory
        self.pool = pool
        self.retention = retention
        self.counters = counters
        self.deadline_s = limits.read_deadline_s
        self.turns = asyncio.Semaphore(STREAMS)
        self.buffers: list[memoryview] = []


class ValueStream:
    """One value being read; to be used in ``async with``. ``length`` is None when there is nothing to read.

    A piece may be used until the next is asked for. The last one is given out after the checksum of all was
    found right, so that nobody takes a damaged value for whole.
    """

    def __init__(self, streams: Streams, key: bytes) -> None:
        self.length: int | None = None
        self._shared = streams
        self._key = key
        self._row_sequence = 0
        self._header: Header | None = None
        self._offset = 0
        self._checksum = 0
        self._fd = -1
        self._opened = ExitStack()
        self._job: Job[int] | None = None

    async def __aenter__(self) -> Self:
        await self._shared.turns.acquire()
        buffers = self._shared.buffers
        self._memory = buffers.pop() if buffers else memoryview(mmap.mmap(-1, PAGE_BYTES + 2 * PIECE_BYTES))
        try:
            await self._begin()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def pieces(self) -> AsyncIterator[memoryview]:
        """The value's pieces.

        Raises:
            StreamBrokenError: in place of a piece, of the last one at the latest.
        """
        header, length = self._header, self.length
        assert header is not None, "there is something to read"
        assert length is not None, "there is something to read"
        if is_inline(len(header.key), length):
            key_end = HEADER_BYTES + len(header.key)
            piece = self._memory[key_end : key_end + length]
            self._verify(checksum(piece))
            yield piece
            return
        at = 0  # the first piece came with the header
        while at < length:
            if at:
                await self._finish_read()
            piece = self._piece(at, length)
            at += len(piece)
            if at < length:
                self._job = self._shared.pool.submit(self._read, at, length, self._checksum)
            else:
                self._verify(self._checksum)
            yield piece

    async def _begin(self) -> None:
        shared, index = self._shared, self._shared.books.index
        row = index.rows.get(self._key)
        if row is None or not shared.retention.fresh(row):
            shared.counters.missed[Miss.ABSENT if row is None else Miss.EXPIRED] += 1
            return
        if shared.pool.full:
            shared.counters.missed[Miss.QUEUE_FULL] += 1
            return
        wanted, segment = shared.books.header(row), shared.books.segment(row)
        self._row_sequence = wanted.sequence
        self._offset = wanted.page * PAGE_BYTES
        self._job = shared.pool.submit(self._open, segment.name, wanted.value_length)
        try:
            await self._finish_read()
        except StreamBrokenError:
            shared.counters.missed[Miss.IO_ERROR] += 1
            return
        found = decode_header(self._memory[:PAGE_BYTES])
        if not is_record(found, wanted):
            shared.counters.missed[Miss.CORRUPT] += 1
            await self._forget()
            return
        self._header = found
        self.length = wanted.value_length

    def _open(self, name: str, length: int) -> int:
        """In a thread: read the header and what follows it; the checksum of the first piece."""
        directory = self._shared.directory
        self._fd = self._opened.enter_context(directory.opened(name, os.O_RDONLY))
        piece = memoryview(b"") if is_inline(len(self._key), length) else self._piece(0, length)
        pages = self._memory[: PAGE_BYTES + -(-len(piece) // PAGE_BYTES) * PAGE_BYTES]
        if directory.read(self._fd, [pages], self._offset) < len(pages):
            raise OSError("a record ends early")
        return checksum(piece)

    def _piece(self, at: int, length: int) -> memoryview:
        start = PAGE_BYTES + at // PIECE_BYTES % 2 * PIECE_BYTES
        return self._memory[start : start + min(PIECE_BYTES, length - at)]

    def _read(self, at: int, length: int, so_far: int) -> int:
        """In a thread: read a piece; the checksum of the value up to its end."""
        piece = self._piece(at, length)
        start = PAGE_BYTES + at // PIECE_BYTES % 2 * PIECE_BYTES
        pages = self._memory[start : start + -(-len(piece) // PAGE_BYTES) * PAGE_BYTES]
        if self._shared.directory.read(self._fd, [pages], self._offset + PAGE_BYTES + at) < len(pages):
            raise OSError("a record ends early")
        return checksum(piece, so_far)

    async def _finish_read(self) -> None:
        job = self._job
        assert job is not None, "a read is under way"
        if not await job.within(self._shared.deadline_s):
            raise StreamBrokenError("the device is too slow")
        try:
            self._checksum = job.done.result()
        except OSError as error:
            self._shared.counters.read_errors += 1
            raise StreamBrokenError(str(error)) from error

    def _verify(self, found: int) -> None:
        assert self._header is not None, "there is something to read"
        shared, index = self._shared, self._shared.books.index
        row = index.rows.get(self._key)
        same = row is not None and index.sequence[row] == self._row_sequence
        if found != self._header.value_checksum:
            shared.counters.missed[Miss.CORRUPT] += 1
            if same:
                shared.books.forget(self._key)
            raise StreamBrokenError("the checksum differs")
        shared.counters.hits += 1
        shared.counters.hit_bytes += self.length or 0
        if same and row is not None:
            shared.retention.touch(row)

    async def _forget(self) -> None:
        index = self._shared.books.index
        row = index.rows.get(self._key)
        if row is not None and index.sequence[row] == self._row_sequence:
            self._shared.books.forget(self._key)
            await self._shared.books.segments.flush()

    async def _end(self) -> None:
        try:
            if self._job is not None and not self._job.withdraw():
                await wait_whatever_happens(self._job)
        finally:
            self._opened.close()
            self._shared.buffers.append(self._memory)
            self._shared.turns.release()
