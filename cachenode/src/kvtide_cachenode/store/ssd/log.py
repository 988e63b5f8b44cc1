"""The SSD tier's log: values by key in append-only segments, around the page cache.

What is acknowledged outlives a killed process: direct I/O is in the device when the call returns, and where
there is no direct I/O every write is synced. A power cut may take what was put since the last snapshot
(`maintain` takes one a minute and syncs before it); a deletion is synced before it is acknowledged. Whatever
the disk does, a caller sees a typed result, and a value is given out only after its checksum, key and place
have been verified.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

from kvtide_cachenode.store.ssd.books import Books
from kvtide_cachenode.store.ssd.cleaning import Cleaner, Usefulness
from kvtide_cachenode.store.ssd.files import Directory, Files, SsdLogError
from kvtide_cachenode.store.ssd.io_pool import IoPool
from kvtide_cachenode.store.ssd.limits import MAX_INDEX_BYTES, SLICE_ENTRIES, Capacity, Limits, Retention
from kvtide_cachenode.store.ssd.reader import LogReader
from kvtide_cachenode.store.ssd.recovery import Recovered, recover
from kvtide_cachenode.store.ssd.results import Counters, Missed, Refused, SsdLogStats, Stored
from kvtide_cachenode.store.ssd.segment import Segment
from kvtide_cachenode.store.ssd.snapshot import SNAPSHOT_NAME
from kvtide_cachenode.store.ssd.space import Segments
from kvtide_cachenode.store.ssd.stream import Streams, ValueStream
from kvtide_cachenode.store.ssd.upkeep import Upkeep
from kvtide_cachenode.store.ssd.write_gate import WriteBudget
from kvtide_cachenode.store.ssd.writer import LogWriter

LIMITS = Limits()


def last_use(_key: bytes, used_at_s: float) -> float:
    """The usefulness of an entry when nobody says better: how lately it was used."""
    return used_at_s


class SsdLog:
    """One directory's log; open it with `SsdLog.open`. All methods belong to one event loop.

    ``clock`` gives Unix time in seconds (idle times outlive the process). The caller runs `maintain` about
    once a second.
    """

    def __init__(
        self,
        directory: Directory,
        pools: tuple[IoPool, IoPool],
        recovered: Recovered,
        cap_bytes: int,
        clock: Callable[[], float],
        write_bytes_per_day: float,
        usefulness: Usefulness,
        limits: Limits,
    ) -> None:
        self.counters = Counters()
        self._clock = clock
        self._limits = limits
        self._directory = directory
        self._reads, self._writes = pools
        self._budget = WriteBudget(write_bytes_per_day, clock())
        segments = Segments(directory, self._writes, self._spend, self._lost)
        for segment in recovered.segments:
            segments.adopt(segment, killed=segment in recovered.killed)
        self._books = Books(recovered.index, segments, recovered.next_sequence)
        self._index = recovered.index
        self._index.used_until(clock())
        self._recovered = (len(recovered.index), recovered.torn)
        self._capacity = Capacity(cap_bytes, segments, clock)
        self._capacity.snapshot_bytes = recovered.snapshot_bytes
        self._retention = Retention(self._index, clock)
        if recovered.budget is not None:
            self._budget.restore(*recovered.budget)
        self._cleaner = Cleaner(
            self._books, directory, self._writes, self._capacity, self._retention, self.counters, self._spend,
            usefulness,
        )  # fmt: skip
        self._writer = LogWriter(
            self._books, directory, self._writes, self._cleaner, self._capacity, self._retention,
            self._budget, self.counters, self._spend, limits, clock,
        )  # fmt: skip
        self._reader = LogReader(self._books, directory, self._reads, self._retention, self.counters, limits)
        self._streams = Streams(
            self._books, directory, self._reads, self._retention, self.counters, limits
        )  # fmt: skip
        self._upkeep = Upkeep(
            self._books, directory, self._writes, self._cleaner, self._capacity, self._retention,
            self._budget, self.counters, self._spend, clock,
        )  # fmt: skip
        if recovered.segments:  # go on in the youngest segment, so that restarts leave no trail of small ones
            self._cleaner.head.segment = recovered.segments[-1]

    @classmethod
    async def open(
        cls,
        path: Path,
        cap_bytes: int,
        clock: Callable[[], float],
        *,
        write_bytes_per_day: float = float("inf"),
        usefulness: Usefulness = last_use,
        limits: Limits = LIMITS,
        files: Files | None = None,
    ) -> Self:
        """Take over a directory, adopt what is in it, and bring it under the cap in the background of puts.

        Raises:
            SsdLogError: the directory cannot be used; the message says what to do.
        """
        directory = Directory(path, files or Files())
        directory.lock()
        reads = IoPool("ssd-read", limits.read_threads, limits.reads_waiting)
        writes = IoPool("ssd-write", limits.write_threads, limits.writes_waiting)
        try:
            recovered = await reads.submit(recover, directory).result()
        except OSError as error:
            reads.close()
            writes.close()
            directory.unlock()
            raise SsdLogError(f"{path}: {error.strerror}; give a directory that can be read") from error
        return cls(
            directory, (reads, writes), recovered, cap_bytes, clock, write_bytes_per_day, usefulness, limits
        )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def path(self) -> Path:
        """The directory."""
        return self._directory.path

    @property
    def cap_bytes(self) -> int:
        """The cap as it was last set."""
        return self._capacity.cap_bytes

    def contains(self, key: bytes) -> bool:
        """Whether a read of the key would find an entry, its checksum aside."""
        row = self._index.rows.get(key)
        return row is not None and self._retention.fresh(row)

    def size_of(self, key: bytes) -> int | None:
        """Bytes of a key's value, None when there is none."""
        row = self._index.rows.get(key)
        return self._index.length[row] if row is not None and self._retention.fresh(row) else None

    @property
    def rows(self) -> Mapping[bytes, int]:
        """The keys of all entries, expired ones included; another object after `forget_all`."""
        return self._index.rows

    @property
    def trouble(self) -> str | None:
        """What is wrong with the device now and what that means, in a sentence; None when nothing is."""
        return self._writer.trouble

    @property
    def index_bytes(self) -> int:
        """What the index counts for in memory."""
        return self._index.memory_bytes

    def watch(self, appeared: Callable[[bytes], None], vanished: Callable[[bytes], None]) -> None:
        """Have somebody told of keys that come into `rows` and go, but for `forget_all`."""
        self._index.appeared, self._index.vanished = appeared, vanished

    def own(self, key: bytes) -> bytes:
        """The object that stands for a key here, so that nobody holds another: they are long."""
        row = self._index.rows.get(key)
        return key if row is None else self._index.keys[row]

    def touch(self, key: bytes) -> bool:
        """Count a demotion of a value that is here already as a use; whether it is here."""
        row = self._index.rows.get(key)
        if row is None or not self._retention.fresh(row):
            return False
        self._retention.touch(row)
        return True

    async def put(self, key: bytes, value: memoryview, group: int) -> Stored | Refused:
        """Store a value under its key, in place of what was there.

        ``value`` is C-contiguous bytes; where it starts on a page it is written from there, without a copy.
        It must stay as it is until this returns (or is cancelled), and may change afterwards. However this
        ends, the key's earlier value is gone: a caller that puts has a newer one.
        """
        forgot = self._books.forget(key)
        result: Stored | Refused | None = None
        try:
            result = await self._writer.put(key, value if value.format == "B" else value.cast("B"), group)
        finally:
            # The earlier record must be dead for good before this one may be relied on: were this one's mark
            # to reach the disk first one day, a kill in between would bring the earlier one back.
            if forgot or not isinstance(result, Stored):
                await self._books.segments.flush()
        if isinstance(result, Stored):
            self.counters.stored += 1
            self.counters.stored_bytes += len(value)
        else:
            self.counters.refused[result.reason] += 1
        return result

    async def get_into(self, key: bytes, target: memoryview) -> int | Missed:
        """Read a key's value into the start of ``target``; returns its length, and the entry counts as used.

        Where the target starts on a page, the device writes there directly. A read that is cancelled ends
        when the device has let go of the target; one that ends with SLOW says when (`Missed.settled`).
        """
        result = await self._reader.read(key, target)
        if isinstance(result, Missed):
            self.counters.missed[result.reason] += 1
        else:
            self.counters.hits += 1
            self.counters.hit_bytes += result
        return result

    def stream(self, key: bytes) -> ValueStream:
        """A key's value in pieces."""
        return ValueStream(self._streams, key)

    def forget(self, key: bytes) -> bool:
        """Remove a key; whether there is something that a restart could bring back before `flush`."""
        known = self._books.knows(key)
        self._books.forget(key)
        return known

    async def flush(self) -> None:
        """Return when what was forgotten before this call stays forgotten."""
        await self._books.segments.flush()

    async def delete(self, key: bytes) -> bool:
        """Remove a key for good: no restart brings it back once this returns. Whether it was there."""
        was_there = self.contains(key)
        self._books.forget(key)
        await self._books.segments.flush()
        self.counters.deletes += was_there
        return was_there

    async def clear(self) -> None:
        """Remove every key for good."""
        self.forget_all()
        await self._books.segments.flush()

    def forget_all(self) -> None:
        """Remove every key, in no time; for good when `flush` returns.

        What they take in memory is given back by `free_forgotten`.
        """
        self._books.forget_all()

    def free_forgotten(self, entries: int) -> bool:
        """Free so many entries that `forget_all` removed; whether there are more."""
        return self._index.free(entries)

    async def set_cap(self, cap_bytes: int) -> bool:
        """Change the cap; puts obey it at once. Returns when what is used is below it, the least useful
        entries gone.

        False when a later call changed the cap again (which is how a shrink is given up) or nothing more can
        be removed. `stats` shows the progress; cancelling this leaves the cap as it was set.
        """
        capacity = self._capacity
        capacity.cap_bytes = cap_bytes
        below = await self._cleaner.until(lambda: not self._over() or capacity.cap_bytes != cap_bytes)
        if not (below or self._books.segments.table):
            # What is left is the snapshot: without segments there is nothing that it could tell.
            removed = await self._writes.submit(self._directory.remove, SNAPSHOT_NAME).result()
            capacity.snapshot_bytes *= not removed
        return capacity.used_bytes <= capacity.cap_bytes == cap_bytes

    def limit_index(self, memory_bytes: int) -> None:
        """Have the index take at most so much memory: `maintain` and puts see to it."""
        self._capacity.max_index_bytes = min(memory_bytes, MAX_INDEX_BYTES)

    def set_ttl(self, ttl_s: Mapping[int, float], other_ttl_s: float) -> None:
        """Replace the idle time-outs of the groups (see `Retention`)."""
        self._retention.set(ttl_s, other_ttl_s)

    async def maintain(self) -> None:
        """What has to be done now and then: to be run about once a second."""
        await self._books.segments.flush()
        await self._upkeep.remove_expired()
        if self._over():
            await self.set_cap(self._capacity.cap_bytes)
        if self._upkeep.snapshot_is_due():
            await self._upkeep.snapshot()

    async def close(self) -> None:
        """Stop: wait for what is under way (bounded), write the snapshot, let go of the directory."""
        self._writer.closed = self._reader.closed = self._cleaner.closed = True
        seconds = self._limits.close_deadline_s
        try:
            async with asyncio.timeout(seconds):
                await self._writer.settle(seconds)
                await self._cleaner.settle(seconds)
                await self._books.segments.flush()
                await self._books.segments.settle(seconds)
                await self._upkeep.snapshot()
        except TimeoutError:
            self.counters.snapshot_errors += 1
        self._reads.close()
        self._writes.close()
        self._directory.unlock()

    def stats(self) -> SsdLogStats:
        """The log as it is now."""
        segments, capacity = self._books.segments, self._capacity
        self.counters.segments_given_up = segments.given_up
        now_s = self._clock()
        return SsdLogStats(
            cap_bytes=capacity.cap_bytes,
            used_bytes=capacity.used_bytes,
            live_bytes=sum(segment.live_bytes for segment in segments.table.values()),
            entries=len(self._index),
            segments=len(segments.table),
            direct=self._directory.direct,
            read_only=self._writer.breaker.is_open(now_s),
            cleaning=self._cleaner.active,
            writes_waiting=self._writer.waiting,
            reads_waiting=self._reads.waiting,
            budget_bytes=self._budget.level_bytes(now_s),
            adopted=self._recovered[0],
            torn=self._recovered[1],
            counters=asdict(self.counters),
        )

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of the log."""
        self._books.check()

    def disk_bytes(self) -> int:
        """What the disk holds of the directory, asked from the file system: for a check of ``used_bytes``."""
        return self._directory.total_disk_bytes()

    def _over(self) -> bool:
        capacity = self._capacity
        return capacity.used_bytes > capacity.cap_bytes or self._index.memory_bytes > capacity.max_index_bytes

    def _spend(self, size_bytes: int) -> None:
        self._budget.spend(size_bytes)
        self.counters.written_bytes += size_bytes

    async def _lost(self, segment: Segment) -> None:
        """A segment is gone: forget its entries, in slices. Reads of the rest miss meanwhile."""
        while (size := self._index.drop_members(segment.number, SLICE_ENTRIES)) is not None:
            segment.live_bytes -= size
            await asyncio.sleep(0)
