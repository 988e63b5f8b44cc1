"""The log's books: index, segments and writes under way, kept in step.

One rule holds everywhere: a record leaves the index only together with its mark in the segment's dead map or
with its segment. So a restart never finds an older value of a key that was overwritten, deleted or evicted.
"""

import threading
from dataclasses import dataclass, field

from kvtide_cachenode.store.ssd.files import PAGE_BYTES
from kvtide_cachenode.store.ssd.index import LogIndex
from kvtide_cachenode.store.ssd.record import Header, record_bytes
from kvtide_cachenode.store.ssd.segment import Segment
from kvtide_cachenode.store.ssd.space import Segments


@dataclass(eq=False, slots=True)
class Writing:
    """A record on its way to the disk. ``superseded``: its key was written again or deleted meanwhile."""

    key: bytes
    segment: Segment | None = None
    page: int = 0
    superseded: bool = False
    abandoned: threading.Event = field(default_factory=threading.Event)


class Books:
    """Index, segments and writes under way; all of it belongs to the event loop and never waits."""

    def __init__(self, index: LogIndex, segments: Segments, next_sequence: int) -> None:
        self.index = index
        self.segments = segments
        self.next_sequence = next_sequence
        self._writings: dict[bytes, list[Writing]] = {}

    def begin(self, key: bytes) -> Writing:
        """Announce a write of a key; `forget` finds it from here on."""
        writing = Writing(key)
        self._writings.setdefault(key, []).append(writing)
        return writing

    def place(
        self, writing: Writing, segment: Segment, value_length: int, group: int, used_at_s: float
    ) -> Header:
        """Give a write its place at a segment's end and its sequence number; the header for the disk."""
        page = segment.end_page
        segment.end_page += record_bytes(len(writing.key), value_length) // PAGE_BYTES
        segment.writing.add(page)
        self.segments.recharge(segment)
        writing.segment, writing.page = segment, page
        self.next_sequence += 1
        sequence = self.next_sequence
        return Header(segment.nonce, page, sequence, group, used_at_s, writing.key, value_length, 0)

    def end(self, writing: Writing) -> None:
        """The write is over, one way or the other; to be called once."""
        others = self._writings[writing.key]
        others.remove(writing)
        if not others:
            del self._writings[writing.key]
        if writing.segment is not None:
            writing.segment.writing.discard(writing.page)

    def supersede(self, writing: Writing) -> None:
        """Whatever becomes of a write, its record is dead."""
        writing.superseded = True
        if writing.segment is not None:
            self.segments.kill(writing.segment, writing.page)

    def install(self, writing: Writing, header: Header) -> None:
        """A record is on the disk: its key has this value now."""
        assert writing.segment is not None, "a record without a place"
        assert not writing.superseded, "a dead record comes into the index"
        row = self.index.rows.get(header.key)
        if row is not None:
            self._release(row)
            self.index.remove(row)
        place = (writing.segment.number, writing.page)
        self.index.insert(
            header.key, place, header.value_length, header.group, header.sequence, header.used_at_s
        )
        self._credit(writing.segment, record_bytes(len(header.key), header.value_length))

    def moved(self, writing: Writing, row: int, sequence: int) -> None:
        """A record has been copied: its entry is there now."""
        assert writing.segment is not None, "a record without a place"
        self._release(row)
        self.index.move(row, (writing.segment.number, writing.page), sequence)
        self._credit(writing.segment, self.index.record_bytes(row))

    def forget(self, key: bytes) -> bool:
        """The key has no value any more, nor will a write under way give it one; whether it had one."""
        for writing in self._writings.get(key, ()):
            self.supersede(writing)
        row = self.index.rows.get(key)
        if row is None:
            return False
        self._release(row)
        self.index.remove(row)
        return True

    def forget_all(self) -> None:
        """No key has a value any more, nor will a write under way give it one."""
        for writings in self._writings.values():
            for writing in writings:
                self.supersede(writing)
        for segment in self.segments.table.values():
            self.segments.kill_all(segment)
        self.index.clear()

    def knows(self, key: bytes) -> bool:
        """Whether a key has, or is about to get, a value."""
        return key in self.index.rows or key in self._writings

    def header(self, row: int) -> Header:
        """What the record of an entry must say of itself."""
        index = self.index
        return Header(
            self.segments.table[index.segment[row]].nonce, index.page[row], index.sequence[row],
            index.group[row], index.used_at_s[row], index.keys[row], index.length[row], 0,
        )  # fmt: skip

    def segment(self, row: int) -> Segment:
        """Where the record of an entry is."""
        return self.segments.table[self.index.segment[row]]

    def _credit(self, segment: Segment, size: int) -> None:
        segment.live_bytes += size
        segment.fresh_bytes += size

    def _release(self, row: int) -> None:
        segment = self.segment(row)
        size = self.index.record_bytes(row)
        segment.live_bytes -= size
        segment.fresh_bytes = max(segment.fresh_bytes - size, 0)
        self.segments.kill(segment, self.index.page[row])

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        self.segments.check()
        live = dict.fromkeys(self.segments.table, 0)
        for key, row in self.index.rows.items():
            assert self.index.keys[row] == key, "a row has another key"
            segment = self.segment(row)
            assert not segment.is_dead(self.index.page[row]), "the index holds a dead record"
            assert self.index.page[row] < segment.end_page, "an entry lies behind its segment's end"
            live[segment.number] += self.index.record_bytes(row)
        for number, segment in self.segments.table.items():
            assert segment.live_bytes == live[number], "live bytes differ from the entries'"
            assert len(self.index.members(number)) == sum(
                1 for row in self.index.rows.values() if self.index.segment[row] == number
            ), "a segment's list of entries is not complete"
