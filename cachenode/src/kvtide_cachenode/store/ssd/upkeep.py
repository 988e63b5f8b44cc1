"""What the log does now and then: removing what has expired, and the snapshot of its index."""

import asyncio
from collections.abc import Callable

from kvtide_cachenode.store.ssd.books import Books
from kvtide_cachenode.store.ssd.cleaning import Cleaner
from kvtide_cachenode.store.ssd.files import Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool
from kvtide_cachenode.store.ssd.limits import SLICE_ENTRIES, Capacity, Retention
from kvtide_cachenode.store.ssd.results import Counters
from kvtide_cachenode.store.ssd.segment import Segment
from kvtide_cachenode.store.ssd.snapshot import encode_snapshot, moment, write_snapshot
from kvtide_cachenode.store.ssd.write_gate import WriteBudget

SNAPSHOT_INTERVAL_S = 60.0
# A replay of so many records takes some 0.3 s of the second that a start may take.
SNAPSHOT_PUTS = 8192
# Rows looked at by one call for what has expired.
SWEPT_ROWS = 4096


class Upkeep:
    """Sweeps and snapshots."""

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
        clock: Callable[[], float],
    ) -> None:
        self._books = books
        self._index = books.index
        self._directory = directory
        self._pool = pool
        self._cleaner = cleaner
        self._capacity = capacity
        self._retention = retention
        self._budget = budget
        self._counters = counters
        self._spend = spend
        self._clock = clock
        self._sweep: list[int] = []
        self._snapshot_at_s = clock()
        self._snapshot_sequence = books.next_sequence

    def snapshot_is_due(self) -> bool:
        """Whether enough time has passed, or enough was put, since the last one."""
        behind = self._books.next_sequence - self._snapshot_sequence
        late = self._clock() - self._snapshot_at_s >= SNAPSHOT_INTERVAL_S
        return behind > 0 and (late or behind >= SNAPSHOT_PUTS)

    async def remove_expired(self) -> None:
        """Recount the fresh bytes of some segments, in turn, and remove those that have none."""
        segments = self._books.segments
        looked_at = 0
        while looked_at < SWEPT_ROWS:
            if not self._sweep:
                self._sweep = list(segments.table)
                if looked_at or not self._sweep:
                    break
            segment = segments.table.get(self._sweep.pop())
            if segment is None:
                continue
            rows = self._index.members(segment.number)
            looked_at += len(rows) + 1
            live_bytes = segment.live_bytes
            segment.fresh_bytes = await self._count_fresh(segment, rows)
            busy = (
                segment.writing
                or segment is self._cleaner.head.segment
                or segment.live_bytes != live_bytes  # it changed while it was looked at: next time
            )
            if not segment.fresh_bytes and not busy and await segments.drop(segment):
                self._counters.expired += len(rows)

    async def _count_fresh(self, segment: Segment, rows: list[int]) -> int:
        index, fresh, fresh_bytes = self._index, self._retention.fresh, 0
        for start in range(0, len(rows), SLICE_ENTRIES):
            if start:
                await asyncio.sleep(0)
            fresh_bytes += sum(
                index.record_bytes(row)
                for row in rows[start : start + SLICE_ENTRIES]
                if index.segment[row] == segment.number and fresh(row)
            )
        return fresh_bytes

    async def snapshot(self) -> None:
        """Write down the index, after a sync of all that it tells of."""
        now_s = self._clock()
        self._snapshot_at_s = now_s
        segments = self._books.segments
        sequence = self._books.next_sequence
        now = moment(
            self._index, list(segments.table.values()), sequence, self._budget.level_bytes(now_s), now_s
        )  # fmt: skip
        memory = await asyncio.to_thread(encode_snapshot, now)
        capacity = self._capacity
        if capacity.used_bytes + len(memory) > capacity.cap_bytes:
            self._counters.snapshot_errors += 1
            return
        self._spend(len(memory))
        try:
            await segments.sync()
            held = await self._pool.submit(write_snapshot, self._directory, memory).result()
        except OSError:
            self._counters.snapshot_errors += 1
            return
        capacity.snapshot_bytes = held
        self._snapshot_sequence = sequence
        self._counters.snapshots += 1
