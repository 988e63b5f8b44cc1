"""Making room: choose a segment, move what is worth keeping out of it, remove it.

Segments are looked at oldest first, round and round like the hand of a clock; one that is mostly useful is
passed over and stays where it is. From the one that is taken, entries that are among the more useful half of
the log are moved, as in a log-structured file system (Rosenblum and Ousterhout 1992, section 3). So a byte
put costs at most about one byte moved, and what stays is about what an order by use would keep.
"""

import asyncio
import math
from collections.abc import Callable

from kvtide_cachenode.store.ssd.books import Books
from kvtide_cachenode.store.ssd.files import Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool
from kvtide_cachenode.store.ssd.limits import SLICE_ENTRIES, Capacity, Retention
from kvtide_cachenode.store.ssd.record_io import move_record
from kvtide_cachenode.store.ssd.results import Counters
from kvtide_cachenode.store.ssd.segment import Segment
from kvtide_cachenode.store.ssd.space import Head, segment_bytes
from kvtide_cachenode.store.ssd.tasks import Tasks

# Says how useful an entry is, from its key and its last use (Unix time): the larger, the longer it stays;
# -math.inf: not at all.
Usefulness = Callable[[bytes, float], float]

SAMPLED_ENTRIES = 512
# So many entries are looked at for one choice. The best segment so far is taken then.
SCORED_ENTRIES = 8192
_NEVER = (-math.inf, -math.inf)
# At most this share of the log counts as useful, and of one segment is moved.
KEEP_FRACTION = 0.5
MOVE_FRACTION = 0.75


class Cleaner:
    """Frees segments, one at a time, and has the two heads: for fresh records and for those it moves."""

    def __init__(
        self,
        books: Books,
        directory: Directory,
        pool: IoPool,
        capacity: Capacity,
        retention: Retention,
        counters: Counters,
        spend: Callable[[int], None],
        usefulness: Usefulness,
    ) -> None:
        self._books = books
        self.closed = False
        self.head = Head(books.segments, self.make_room)
        self._moved_head = Head(books.segments, _always)
        self._directory = directory
        self._pool = pool
        self._counters = counters
        self._spend = spend
        self._usefulness = usefulness
        self._capacity = capacity
        self._fresh = retention.fresh
        self._hand = 0  # the number of the segment that was looked at last
        self._lock = asyncio.Lock()
        self._tasks = Tasks()

    @property
    def active(self) -> bool:
        """Whether a segment is being cleaned."""
        return self._lock.locked()

    async def until(self, done: Callable[[], bool]) -> bool:
        """Clean until ``done()``, asked after every segment; False when nothing more can be freed.

        Cancelling the caller ends it after the segment under way.
        """
        while not done():
            if self.closed or not await self._tasks.start(self._clean_one(done)):
                return done()
        return True

    async def make_room(self, size_bytes: int) -> bool:
        """Clean until puts may use so much more; False when they never will."""
        capacity, index = self._capacity, self._books.index

        def roomy() -> bool:
            return capacity.room_for(size_bytes) and index.memory_bytes < capacity.max_index_bytes

        if size_bytes > capacity.puts_bytes:
            return False
        return await self.until(lambda: size_bytes > capacity.puts_bytes or roomy()) and roomy()

    def make_room_ahead(self) -> None:
        """Clean in the background, so that the next segment's first put does not have to wait."""
        size_bytes = segment_bytes(self._capacity.cap_bytes)
        if not (self.active or self.closed or self._capacity.room_for(size_bytes)):
            self._tasks.start(self.make_room(size_bytes))

    async def _clean_one(self, done: Callable[[], bool]) -> bool:
        async with self._lock:
            if done():
                return True
            used, cap_bytes = self._books.segments.used_bytes, self._capacity.cap_bytes
            # Far above the cap everything will be looked at once: keep what will fit, not half of it.
            fraction = min(KEEP_FRACTION, cap_bytes / used) if used else 0.0
            threshold = self._threshold(fraction)
            victim = await self._victim(threshold)
            if victim is None and (self.head.retire() | self._moved_head.retire()):
                victim = await self._victim(threshold)
            return victim is not None and await self._clean(victim, threshold, cap_bytes)

    def _score(self, row: int) -> tuple[float, float]:
        """Usefulness and, among equally useful ones, the last use."""
        if not self._fresh(row):
            return _NEVER
        used_at_s = self._books.index.used_at_s[row]
        usefulness = self._usefulness(self._books.index.keys[row], used_at_s)
        return _NEVER if usefulness == -math.inf else (usefulness, used_at_s)

    def _threshold(self, fraction: float) -> tuple[float, float]:
        """The score above which entries make up ``fraction`` of the live bytes, by a sample."""
        index = self._books.index
        sampled = [(self._score(row), index.record_bytes(row)) for row in index.sample(SAMPLED_ENTRIES)]
        sampled.sort(reverse=True)
        left = fraction * sum(size for _, size in sampled)
        for score, size in sampled:
            left -= size
            if left < 0:
                return score
        return _NEVER

    async def _scores(self, segment: Segment) -> list[tuple[tuple[float, float], int, bytes]]:
        """Score, record's bytes and key of each entry of a segment, looked at in slices."""
        index, scores = self._books.index, []
        rows = index.members(segment.number)
        for start in range(0, len(rows), SLICE_ENTRIES):
            if start:
                await asyncio.sleep(0)
            scores += [
                (self._score(row), index.record_bytes(row), index.keys[row])
                for row in rows[start : start + SLICE_ENTRIES]
                if index.segment[row] == segment.number
            ]
        return scores

    async def _victim(self, threshold: tuple[float, float]) -> Segment | None:
        heads = (self.head.segment, self._moved_head.segment)
        sealed = [
            segment
            for segment in self._books.segments.table.values()
            if segment not in heads and not segment.writing and not segment.removed
        ]
        if not sealed:
            return None
        emptiest = min(sealed, key=lambda segment: segment.fresh_bytes / segment.charged_bytes)
        sealed.sort(key=lambda segment: (segment.number <= self._hand, segment.number))
        scored, best = 0, (math.inf, emptiest)
        for segment in (emptiest, *sealed):
            scores = await self._scores(segment)
            useful = sum(size for score, size, _ in scores if score > threshold)
            best = min(best, (useful / segment.charged_bytes, segment), key=lambda pair: pair[0])
            scored += len(scores)
            if segment is not emptiest:
                self._hand = segment.number
            if best[0] <= KEEP_FRACTION or scored >= SCORED_ENTRIES:
                break
        return best[1]

    async def _clean(self, victim: Segment, threshold: tuple[float, float], cap_bytes: int) -> bool:
        index, segments = self._books.index, self._books.segments
        limit = MOVE_FRACTION * victim.charged_bytes
        if segments.used_bytes <= cap_bytes:
            limit = min(limit, cap_bytes - segments.used_bytes)
        for score, _, key in sorted(await self._scores(victim), reverse=True):
            row = index.rows.get(key)
            if score <= threshold or row is None or index.segment[row] != victim.number:
                continue
            limit -= index.record_bytes(row)
            if limit < 0:
                break
            await self._move(row, victim, segment_bytes(cap_bytes))
        left = index.members(victim.number)
        expired = sum(1 for row in left if not self._fresh(row))
        if not await segments.drop(victim):
            return False
        self._counters.expired += expired
        self._counters.evicted += len(left) - expired
        self._counters.segments_cleaned += 1
        return True

    async def _move(self, row: int, victim: Segment, new_segment_bytes: int) -> None:
        """Copy one record to the head for moved ones; after a failure the entry goes with its segment."""
        books, index = self._books, self._books.index
        key, sequence, size = index.keys[row], index.sequence[row], index.record_bytes(row)
        writing = books.begin(key)
        try:
            target = await self._moved_head.place(size, new_segment_bytes)
            if target is None or writing.superseded or victim.removed:
                return
            wanted = books.header(row)
            header = books.place(writing, target, wanted.value_length, wanted.group, wanted.used_at_s)
            self._spend(size)
            job = self._pool.submit(move_record, self._directory, victim.name, wanted, target.name, header)
            held = await job.result()
            if held is not None:
                books.segments.written(target, held)
            if held is None or target.removed or victim.removed:
                books.supersede(writing)
            if not writing.superseded:
                assert index.sequence[row] == sequence, "an entry changed under its move"
                books.moved(writing, row, header.sequence)
                self._counters.moved += 1
                self._counters.moved_bytes += size
        except OSError:
            self._counters.write_errors += 1
            books.supersede(writing)
        finally:
            books.end(writing)

    async def settle(self, seconds: float) -> None:
        """Wait until no segment is being cleaned, at most this long."""
        await self._tasks.settle(seconds)


async def _always(_size_bytes: int) -> bool:
    return True
