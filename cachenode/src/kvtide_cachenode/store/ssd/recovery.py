"""Restart: adopt the snapshot, replay what it does not know, leave out what is dead or torn.

Values are not read here (each is verified when it is read), except the newest few: those may have been on
their way when the process was killed.
"""

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import nlargest
from operator import attrgetter

from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory
from kvtide_cachenode.store.ssd.index import FREE, LogIndex
from kvtide_cachenode.store.ssd.read_ahead import WINDOW_BYTES, read_ahead
from kvtide_cachenode.store.ssd.record import MAGIC, Header, decode_header, record_bytes
from kvtide_cachenode.store.ssd.record_io import Read, read_record
from kvtide_cachenode.store.ssd.segment import Segment, decode_slots, parse_name
from kvtide_cachenode.store.ssd.snapshot import SNAPSHOT_NAME, TEMPORARY_NAME, Snapshot, read_snapshot

# How much of the newest records' values is verified: more than the writing threads have under way, unless one
# of them was stuck; whatever is torn beyond that is found out when it is read.
VERIFIED_BYTES = 64 << 20
VERIFIED_RECORDS = 128


@dataclass(slots=True)
class Recovered:
    """What a directory holds; ``killed``: segments with newly dead records; ``torn``: how many were."""

    index: LogIndex
    segments: list[Segment]
    killed: list[Segment]
    next_sequence: int
    snapshot_bytes: int
    budget: tuple[float, float] | None
    torn: int


def recover(directory: Directory) -> Recovered:
    """Read a directory's log. Damaged files are removed; what cannot be read is left out.

    Raises:
        OSError: the directory cannot be listed.
    """
    snapshot, snapshot_bytes = read_snapshot(directory)
    if snapshot is None:
        directory.remove(SNAPSHOT_NAME)
        snapshot, snapshot_bytes, budget = Snapshot(LogIndex(), 0, 0.0, 0.0, {}), 0, None
    else:
        budget = (snapshot.budget_bytes, snapshot.taken_at_s)
    sizes = _open_segments(directory)
    replay = _Replay(snapshot.index, {segment.number: segment for segment in sizes}, snapshot.next_sequence)
    replay.drop_unknown(snapshot)
    with ThreadPoolExecutor(1, "ssd-read-ahead") as reader:
        for segment, size_pages in list(sizes.items()):
            nonce, page = snapshot.replay_pages.get(segment.number, (b"", 0))
            segment.end_page = page if nonce == segment.nonce else segment.first_page
            try:
                for header in _records(directory, segment, size_pages, reader):
                    replay.adopt(segment, header)
            except OSError:
                # It may hold older values of keys that are elsewhere now; it must not come back another day.
                replay.index.drop_members(segment.number)
                replay.killed.pop(segment, None)
                directory.remove(segment.name)
                del sizes[segment], replay.segments[segment.number]
                continue
            # A write that was given up left a mark where nothing may be put any more.
            segment.end_page = max(segment.end_page, segment.dead_end_page())
    torn = replay.verify_newest(directory)
    replay.count_live()
    return Recovered(
        snapshot.index, list(sizes), list(replay.killed), replay.next_sequence, snapshot_bytes, budget, torn
    )


def _open_segments(directory: Directory) -> dict[Segment, int]:
    """Segments in their order and the pages of their files."""
    sizes = {}
    for name in sorted(directory.names()):
        known = parse_name(name)
        if known is None:
            if name == TEMPORARY_NAME:
                directory.remove(name)
            continue
        try:
            with directory.opened(name, os.O_RDONLY) as fd:
                segment = _read_slots(directory, fd, *known)
                if segment is not None:
                    sizes[segment] = directory.size(fd) // PAGE_BYTES
                    segment.disk_bytes = directory.disk_bytes(fd)
        except OSError:
            segment = None
        if segment is None:
            # Without its dead map nobody can say which of its records are valid.
            directory.remove(name)
    return sizes


def _read_slots(directory: Directory, fd: int, number: int, capacity_pages: int) -> Segment | None:
    first_page = Segment(number, capacity_pages, b"").first_page
    if first_page * PAGE_BYTES > directory.size(fd):
        return None
    memory = memoryview(mmap.mmap(-1, first_page * PAGE_BYTES))
    directory.read(fd, [memory], 0)
    return decode_slots(number, capacity_pages, memory)


def _records(
    directory: Directory, segment: Segment, size_pages: int, reader: ThreadPoolExecutor
) -> Iterator[Header]:
    """Headers of whole records from ``end_page`` on, which ends up behind the last of them.

    While records are small, all is read ahead; of a large one the header's page alone is read.
    A gap (a write that failed, or was under way beside later ones) is searched page by page for the next
    header.
    """
    page = segment.end_page
    wanted_bytes = WINDOW_BYTES
    with read_ahead(directory, segment.name, reader) as windows:
        while page < size_pages:
            window, got = windows.at(page, wanted_bytes)
            if got == 0:
                return
            at = 0
            while at < got:
                header = _header_at(
                    window[at : at + PAGE_BYTES], segment, page + at // PAGE_BYTES, size_pages
                )
                if header is None:
                    at = _next_magic(window, at + PAGE_BYTES, got)
                    wanted_bytes = WINDOW_BYTES
                    continue
                size = record_bytes(len(header.key), header.value_length)
                segment.end_page = header.page + size // PAGE_BYTES
                wanted_bytes = WINDOW_BYTES if 4 * size < WINDOW_BYTES else PAGE_BYTES
                yield header
                at += size
            page += at // PAGE_BYTES


def _header_at(memory: memoryview, segment: Segment, page: int, size_pages: int) -> Header | None:
    header = decode_header(memory)
    if header is None or (header.nonce, header.page) != (segment.nonce, page):
        return None
    end_page = page + record_bytes(len(header.key), header.value_length) // PAGE_BYTES
    return header if end_page <= min(size_pages, segment.capacity_pages) else None


def _next_magic(window: memoryview, at: int, end: int) -> int:
    """The next page in the window that may start a record, or the window's end."""
    while at < end and window[at : at + len(MAGIC)] != MAGIC:
        at += PAGE_BYTES
    return at


class _Replay:
    """The index on its way from the snapshot's state to that of the segments."""

    def __init__(self, index: LogIndex, segments: dict[int, Segment], next_sequence: int) -> None:
        self.index = index
        self.segments = segments
        self.next_sequence = next_sequence
        self.killed: dict[Segment, None] = {}
        self._tail: list[Header] = []

    def drop_unknown(self, snapshot: Snapshot) -> None:
        """Remove entries whose record died, or whose segment went, after the snapshot was taken."""
        known = {
            number: self.segments[number]
            for number, (nonce, _) in snapshot.replay_pages.items()
            if number in self.segments and self.segments[number].nonce == nonce
        }
        index = self.index
        for row, number in enumerate(index.segment):
            if number == FREE:
                continue
            segment = known.get(number)
            if segment is None or segment.is_dead(index.page[row]):
                index.remove(row)

    def adopt(self, segment: Segment, header: Header) -> None:
        """Take a record in, unless it is dead or older than what the index has of its key."""
        index = self.index
        self.next_sequence = max(self.next_sequence, header.sequence)
        place = (segment.number, header.page)
        if segment.is_dead(header.page):
            return
        row = index.rows.get(header.key)
        if row is not None:
            if (index.segment[row], index.page[row]) == place:
                return
            if index.sequence[row] > header.sequence:
                self._kill(segment, header.page)
                return
            self._kill(self.segments[index.segment[row]], index.page[row])
            index.remove(row)
        index.insert(header.key, place, header.value_length, header.group, header.sequence, header.used_at_s)
        self._tail.append(header)

    def _kill(self, segment: Segment, page: int) -> None:
        segment.kill(page)
        self.killed[segment] = None

    def verify_newest(self, directory: Directory) -> int:
        """Read the newest records that no snapshot knows and remove those that are torn; how many were."""
        left, torn = VERIFIED_BYTES, 0
        for header in nlargest(VERIFIED_RECORDS, self._tail, key=attrgetter("sequence")):
            row = self.index.rows.get(header.key)
            if row is None or self.index.sequence[row] != header.sequence:
                continue
            left -= header.value_length
            if left < 0:
                break
            segment = self.segments[self.index.segment[row]]
            memory = memoryview(mmap.mmap(-1, max(header.value_length, 1)))
            try:
                good = read_record(directory, segment.name, header, memory) is Read.GOOD
            except OSError:
                continue  # it may be readable later; it is verified then
            if not good:
                self._kill(segment, header.page)
                self.index.remove(row)
                torn += 1
        return torn

    def count_live(self) -> None:
        """Fill in the live bytes of every segment."""
        index = self.index
        for row in index.rows.values():
            self.segments[index.segment[row]].live_bytes += index.record_bytes(row)
        for segment in self.segments.values():
            segment.fresh_bytes = segment.live_bytes
