"""The log's way in: whether there is room, a place, a thread that writes, and the books when it is done."""

import asyncio
import errno
import logging
from collections.abc import Callable
from functools import partial

from kvtide_cachenode.store.ssd.books import Books, Writing
from kvtide_cachenode.store.ssd.cleaning import Cleaner
from kvtide_cachenode.store.ssd.files import Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool
from kvtide_cachenode.store.ssd.limits import Capacity, Limits, Retention
from kvtide_cachenode.store.ssd.record import MAX_KEY_BYTES, MAX_VALUE_BYTES, Header, record_bytes
from kvtide_cachenode.store.ssd.record_io import write_record
from kvtide_cachenode.store.ssd.results import Counters, Refusal, Refused, Stored
from kvtide_cachenode.store.ssd.segment import Segment
from kvtide_cachenode.store.ssd.space import segment_bytes
from kvtide_cachenode.store.ssd.tasks import Tasks
from kvtide_cachenode.store.ssd.write_gate import Breaker, WriteBudget

log = logging.getLogger("kvtide_node")


class LogWriter:
    """Puts fresh records. ``waiting`` and ``waiting_bytes`` count puts that have not ended."""

    def __init__(
        self,
        books: Books,
        directory: Directory,
        pool: IoPool,
        cleaner: Cleaner,
        capacity: Capacity,
        retention: Retention,
        budget: WriteBudget,
        counters: Counters,
        spend: Callable[[int], None],
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self.waiting = 0
        self.waiting_bytes = 0
        self.closed = False
        self.breaker = Breaker()
        self.trouble: str | None = None
        self._books = books
        self._directory = directory
        self._pool = pool
        self._cleaner = cleaner
        self._capacity = capacity
        self._retention = retention
        self._budget = budget
        self._counters = counters
        self._spend = spend
        self._limits = limits
        self._clock = clock
        self._tasks = Tasks()
        self._under_way: set[asyncio.Future[int | None]] = set()

    def objection(self, key: bytes, size_bytes: int, group: int) -> Refusal | None:
        """Why a put is refused before anything is done, None when nothing is against it."""
        now_s = self._clock()
        limits = self._limits
        room = self._capacity.puts_bytes
        reasons = (
            (Refusal.CLOSED, self.closed),
            (Refusal.TTL_ZERO, self._retention.ttl_s(group) <= 0),
            (Refusal.TOO_LARGE, len(key) > MAX_KEY_BYTES or size_bytes > min(room, MAX_VALUE_BYTES)),
            (Refusal.READ_ONLY, self.breaker.is_open(now_s)),
            (Refusal.OVER_BUDGET, self._budget.level_bytes(now_s) <= 0),
            (
                Refusal.QUEUE_FULL,
                self._pool.full
                or self.waiting >= limits.writes_waiting
                or self.waiting_bytes + size_bytes > max(limits.writes_waiting_bytes, size_bytes),
            ),
        )
        return next((reason for reason, holds in reasons if holds), None)

    async def put(self, key: bytes, value: memoryview, group: int) -> Stored | Refused:
        """Write a record; the key's earlier value has been forgotten by the caller."""
        size = record_bytes(len(key), len(value))
        objection = self.objection(key, size, group)
        if objection is not None:
            return Refused(objection)
        self.waiting += 1
        self.waiting_bytes += size
        writing = self._books.begin(key)
        try:
            return await self._placed(writing, value, group, size)
        finally:
            self.waiting -= 1
            self.waiting_bytes -= size

    async def _placed(self, writing: Writing, value: memoryview, group: int, size: int) -> Stored | Refused:
        refusal = Refusal.NO_SPACE
        placed = False
        try:
            async with asyncio.timeout(self._limits.write_deadline_s):
                segment = await self._cleaner.head.place(size, segment_bytes(self._capacity.cap_bytes))
            if segment is not None and not writing.superseded and not self.closed:
                header = self._books.place(writing, segment, len(value), group, self._clock())
                placed = True
                return await self._written(writing, header, value)
            if segment is not None:
                refusal = Refusal.CLOSED if self.closed else Refusal.SUPERSEDED
        except TimeoutError:
            refusal = Refusal.SLOW
        except OSError as error:
            refusal = self._failed(error, None)
        finally:
            if not placed:
                self._books.end(writing)
        return Refused(refusal)

    async def _written(self, writing: Writing, header: Header, value: memoryview) -> Stored | Refused:
        assert writing.segment is not None, "a record without a place"
        self._spend(record_bytes(len(header.key), len(value)))
        job = self._pool.submit(
            write_record, self._directory, writing.segment.name, header, value, writing.abandoned
        )  # fmt: skip
        outcome: list[Stored | Refused] = []
        self._under_way.add(job.done)
        job.done.add_done_callback(self._under_way.discard)
        job.done.add_done_callback(partial(self._finish, writing, header, outcome))
        ended = False
        try:
            ended = await job.within(self._limits.write_deadline_s)
        finally:
            if not ended:  # too slow, or the caller was cancelled: from here on the value's memory may change
                writing.abandoned.set()
                self._books.supersede(writing)
                job.withdraw()
        return outcome[0] if outcome else Refused(Refusal.SLOW)

    def _finish(
        self,
        writing: Writing,
        header: Header,
        outcome: list[Stored | Refused],
        done: "asyncio.Future[int | None]",
    ) -> None:
        """Do the books when the thread is done, whoever still waits for it."""
        segment = writing.segment
        assert segment is not None, "a record without a place"
        self._books.end(writing)
        error = None if done.cancelled() else done.exception()
        held = None if done.cancelled() or error else done.result()
        if error is not None:
            self._books.supersede(writing)  # some of it may be on the disk
            outcome.append(Refused(self._failed(error, segment)))
            return
        if held is None:
            return
        self.breaker.succeeded()
        if self.trouble is not None:
            log.info("the SSD takes writes again")
            self.trouble = None
        self._books.segments.written(segment, held)
        if writing.superseded or segment.removed:
            outcome.append(Refused(Refusal.SUPERSEDED if writing.superseded else Refusal.IO_ERROR))
            return
        self._books.install(writing, header)
        outcome.append(Stored(header.sequence))
        self._cleaner.make_room_ahead()

    def _failed(self, error: BaseException, segment: Segment | None) -> Refusal:
        if not isinstance(error, OSError):
            raise error
        if self.trouble is None:
            self.trouble = (
                f"the SSD cannot be written ({error.strerror or error}): what leaves DRAM is lost until "
                f"{self._directory.path} takes writes again"
            )
            log.warning(self.trouble)
        if isinstance(error, FileNotFoundError) and segment is not None:
            self._tasks.start(self._books.segments.drop(segment))  # somebody removed the file
        self._counters.write_errors += 1
        self.breaker.failed(self._clock())
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._capacity.disk_full()
            return Refusal.NO_SPACE
        return Refusal.IO_ERROR

    async def settle(self, seconds: float) -> None:
        """Wait for the writes under way, at most this long."""
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=seconds)
