"""The log's way out: find the record, have a thread read and verify it, within a deadline."""

import asyncio
from typing import Any

from kvtide_cachenode.store.ssd.books import Books
from kvtide_cachenode.store.ssd.files import Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool, Job
from kvtide_cachenode.store.ssd.limits import Limits, Retention
from kvtide_cachenode.store.ssd.record_io import Read, read_record
from kvtide_cachenode.store.ssd.results import Counters, Miss, Missed

# A record may be moved while it is being read; so often a read looks for it again.
READ_TRIES = 3


class LogReader:
    """Reads values into the caller's memory."""

    def __init__(
        self,
        books: Books,
        directory: Directory,
        pool: IoPool,
        retention: Retention,
        counters: Counters,
        limits: Limits,
    ) -> None:
        self.closed = False
        self._books = books
        self._index = books.index
        self._directory = directory
        self._pool = pool
        self._retention = retention
        self._counters = counters
        self._limits = limits

    async def read(self, key: bytes, target: memoryview) -> int | Missed:
        """What `SsdLog.get_into` does, the counting of hits and misses aside."""
        index = self._index
        for _ in range(READ_TRIES):
            row = index.rows.get(key)
            if row is None:
                return Missed(Miss.ABSENT)
            obstacle = self._obstacle(row, target)
            if obstacle is not None:
                return Missed(obstacle)
            wanted, segment = self._books.header(row), self._books.segment(row)
            job = self._pool.submit(
                read_record, self._directory, segment.name, wanted, target[: wanted.value_length]
            )  # fmt: skip
            read = await self._finished(job)
            if isinstance(read, Missed):
                return read
            row = index.rows.get(key)
            same = row is not None and index.sequence[row] == wanted.sequence
            if read is Read.GOOD:
                if same and row is not None:
                    self._retention.touch(row)
                return wanted.value_length
            if same and not segment.removed:
                self._books.forget(key)
                await self._books.segments.flush()
                return Missed(Miss.CORRUPT)
            if same:
                break
        return Missed(Miss.ABSENT)

    def _obstacle(self, row: int, target: memoryview) -> Miss | None:
        if self.closed:
            return Miss.CLOSED
        if not self._retention.fresh(row):
            return Miss.EXPIRED
        if len(target) < self._index.length[row]:
            return Miss.TARGET_TOO_SMALL
        return Miss.QUEUE_FULL if self._pool.full else None

    async def _finished(self, job: Job[Read]) -> Read | Missed:
        """How the thread's read ended, or SLOW."""
        try:
            ended = await job.within(self._limits.read_deadline_s)
        except asyncio.CancelledError:
            if not job.withdraw():
                await wait_whatever_happens(job)
            raise
        if not ended:
            return Missed(Miss.SLOW, None if job.withdraw() else job.done)
        try:
            return job.done.result()
        except OSError:
            self._counters.read_errors += 1
            return Missed(Miss.IO_ERROR)


async def wait_whatever_happens(job: Job[Any]) -> None:
    """Wait for a thread even while being cancelled: it still writes into the caller's memory."""
    while not job.done.done():
        try:
            await job.within(3600.0)
        except asyncio.CancelledError:
            continue
