"""The log's segments: making, charging, marking dead, removing, and the heads where records are appended."""

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable

from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory
from kvtide_cachenode.store.ssd.io_pool import IoPool
from kvtide_cachenode.store.ssd.segment import NONCE_BYTES, Segment, pages_for
from kvtide_cachenode.store.ssd.tasks import Tasks

# A tier has about 64 segments, so that one is a small step when the cap changes; large files are kind to the
# device, and beyond 256 MiB nothing is gained.
SEGMENTS_PER_CAP = 64
SEGMENT_BYTES_MIN = 256 << 10
SEGMENT_BYTES_MAX = 256 << 20


def segment_bytes(cap_bytes: int) -> int:
    """Size of a new segment under a cap; a record that is larger gets a segment of its own."""
    size = min(max(cap_bytes // SEGMENTS_PER_CAP, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)
    return size - size % PAGE_BYTES


def write_slot(directory: Directory, name: str, slot: bytes, offset: int, flags: int) -> int:
    """Write a dead map and sync it; returns the bytes that the disk then holds of the segment."""
    memory = mmap.mmap(-1, len(slot))
    memory[:] = slot
    with directory.opened(name, os.O_WRONLY | flags) as fd:
        directory.write(fd, [memoryview(memory)], offset)
        directory.sync(fd)
        return directory.disk_bytes(fd)


def _create(directory: Directory, name: str, slot: bytes, offset: int) -> int:
    directory.own()
    try:
        held = write_slot(directory, name, slot, offset, os.O_CREAT | os.O_EXCL)
        directory.sync_names()
    except OSError:
        directory.remove(name)
        raise
    return held


class Segments:
    """All segments of a log. ``used_bytes`` is what they count for; ``spend`` is told of bytes written.

    A segment whose dead map cannot be written is given up, file and all, because a restart could otherwise
    bring back what was deleted; ``lost`` forgets its entries, as it does when a segment is dropped.
    """

    def __init__(
        self,
        directory: Directory,
        pool: IoPool,
        spend: Callable[[int], None],
        lost: Callable[[Segment], Awaitable[None]],
    ) -> None:
        self.table: dict[int, Segment] = {}
        self.used_bytes = 0
        self.given_up = 0
        self.next_number = 1
        self._directory = directory
        self._pool = pool
        self._spend = spend
        self._lost = lost
        self._charged: dict[int, int] = {}
        self._undead: set[Segment] = set()  # their dead maps are newer than what the disk has
        self._unsynced: set[Segment] = set()
        self._flushing = asyncio.Lock()
        self._tasks = Tasks()

    def adopt(self, segment: Segment, *, killed: bool = False) -> None:
        """Take over a segment with its books; ``killed``: its dead map is newer than what the disk has."""
        if killed:
            self._undead.add(segment)
        self.table[segment.number] = segment
        self.next_number = max(self.next_number, segment.number + 1)
        self._charged[segment.number] = 0
        self.recharge(segment)

    def recharge(self, segment: Segment) -> None:
        """Count a segment anew after its end or its blocks changed."""
        if segment.number in self.table:
            self.used_bytes += segment.charged_bytes - self._charged[segment.number]
            self._charged[segment.number] = segment.charged_bytes

    def written(self, segment: Segment, disk_bytes: int) -> None:
        """A record is in the file, which now has this many bytes on the disk."""
        segment.disk_bytes = max(segment.disk_bytes, disk_bytes)
        self._unsynced.add(segment)
        self.recharge(segment)

    def kill(self, segment: Segment, page: int) -> None:
        """Mark a record dead; `flush` makes it last."""
        segment.kill(page)
        self._undead.add(segment)

    def kill_all(self, segment: Segment) -> None:
        """Mark all records of a segment dead; `flush` makes it last."""
        if segment.end_page > segment.first_page:
            segment.kill_all()
            self._undead.add(segment)

    async def create(self, pages: int) -> Segment:
        """A new segment with room for ``pages`` pages in all.

        Raises:
            OSError: it cannot be made; nothing is left behind.
        """
        made = await self._tasks.start(self._create(pages))
        if isinstance(made, OSError):
            raise made
        return made

    async def _create(self, pages: int) -> Segment | OSError:
        """The segment, or what the device said: no defect of the task, and for whoever asked to tell."""
        segment = Segment(self.next_number, pages, os.urandom(NONCE_BYTES))
        self.next_number += 1
        slot, offset = segment.next_slot()
        self._spend(len(slot))
        try:
            segment.disk_bytes = await self._pool.submit(
                _create, self._directory, segment.name, slot, offset
            ).result()
        except OSError as error:
            return error
        self.adopt(segment)
        return segment

    async def flush(self, but: Segment | None = None) -> None:
        """Make all records that are marked dead stay dead, except those of ``but``, which is about to go."""
        if self._undead or self._flushing.locked():
            await self._tasks.start(self._flush(but))

    async def _flush(self, but: Segment | None) -> None:
        async with self._flushing:
            segments = [segment for segment in self._undead if segment is not but and not segment.removed]
            self._undead.intersection_update({but} if but else ())
            jobs = []
            for segment in segments:
                slot, offset = segment.next_slot()
                self._spend(len(slot))
                jobs.append(
                    self._pool.submit(write_slot, self._directory, segment.name, slot, offset, 0)
                )  # fmt: skip
            failed = []
            for segment, job in zip(segments, jobs, strict=True):
                try:
                    await job.result()
                except OSError:
                    failed.append(segment)
            for segment in failed:
                self.given_up += 1
                if not await self._remove(segment):
                    self._undead.add(segment)

    async def drop(self, segment: Segment) -> bool:
        """Remove a segment and the entries in it; whether that worked."""
        # Entries of the segment may hide older records of their keys elsewhere: those must be dead first.
        await self.flush(but=segment)
        return await self._remove(segment)

    async def _remove(self, segment: Segment) -> bool:
        if segment.removed:
            return True
        segment.removed = True
        if not await self._pool.submit(self._directory.remove, segment.name).result():
            segment.removed = False
            return False
        self._undead.discard(segment)
        self._unsynced.discard(segment)
        await self._lost(segment)
        del self.table[segment.number]
        self.used_bytes -= self._charged.pop(segment.number)
        return True

    async def sync(self) -> None:
        """Make every finished write outlive a power cut.

        Raises:
            OSError: the device failed.
        """
        segments, self._unsynced = self._unsynced, set()
        jobs = [self._pool.submit(_sync, self._directory, s.name) for s in segments if not s.removed]
        for job in jobs:
            await job.result()

    async def settle(self, seconds: float) -> None:
        """Wait for what is under way."""
        await self._tasks.settle(seconds)

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        charged = {number: segment.charged_bytes for number, segment in self.table.items()}
        assert self._charged == charged, "a segment is charged with something else than it takes"
        assert self.used_bytes == sum(charged.values()), "used bytes differ from the segments'"
        for segment in self.table.values():
            assert segment.first_page <= segment.end_page <= segment.capacity_pages, (
                "a segment's end is outside"
            )
            assert segment.live_bytes >= 0, "more was released than written"


def _sync(directory: Directory, name: str) -> None:
    try:
        with directory.opened(name, os.O_WRONLY) as fd:
            directory.sync(fd)
    except FileNotFoundError:
        return  # removed meanwhile: nothing to keep


class Head:
    """Where one stream of records is appended: fresh ones have one head, those moved by cleaning another.

    ``room(bytes)`` is awaited until so many bytes more may be used; it says False when they never will.
    """

    def __init__(self, segments: Segments, room: Callable[[int], Awaitable[bool]]) -> None:
        self.segment: Segment | None = None
        self._segments = segments
        self._room = room
        self._lock = asyncio.Lock()

    async def place(self, record_bytes: int, new_segment_bytes: int) -> Segment | None:
        """Give the next record its place, ``end_page`` of what is returned, before which the caller must not
        await.

        None when there is no room.

        Raises:
            OSError: a new segment was needed and cannot be made.
        """
        async with self._lock:
            while True:
                segment = self.segment
                fits = segment is not None and not segment.removed and _fits(segment, record_bytes)
                wanted = record_bytes if fits else record_bytes + 2 * PAGE_BYTES
                if not await self._room(wanted):
                    return None
                if self.segment is not segment:
                    continue  # cleaning took the head's segment to make room
                if segment is not None and fits:
                    return segment
                pages = max(new_segment_bytes // PAGE_BYTES, pages_for(record_bytes))
                self.segment = await self._segments.create(pages)

    def retire(self) -> bool:
        """Let cleaning have the segment; whether there was one."""
        was, self.segment = self.segment, None
        return was is not None


def _fits(segment: Segment, record_bytes: int) -> bool:
    return segment.end_page + record_bytes // PAGE_BYTES <= segment.capacity_pages
