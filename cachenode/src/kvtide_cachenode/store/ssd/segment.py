"""A segment: one append-only file of records, and which of them are dead.

A record is never overwritten. When its key is deleted or gets a new value its bit is set in the segment's
*dead map*, which is written to one of two slots at the file's start in turn, so that one of them is always
whole. A restart that finds the record by whatever way sees the bit.
"""

import struct
from dataclasses import dataclass, field

from kvtide_cachenode.store.ssd.files import PAGE_BYTES
from kvtide_cachenode.store.ssd.record import checksum

_MAGIC = b"KVTSEG01"
_HEADER = struct.Struct("<8sI 16s I I Q")  # magic, checksum, nonce, id, capacity in pages, count of writes
_CHECKED_FROM = 12
NONCE_BYTES = 16
SUFFIX = ".segment"


def slot_pages(capacity_pages: int) -> int:
    """Pages of one slot of the dead map: one bit for each page of the segment."""
    return -(-(_HEADER.size + capacity_pages // 8 + 1) // PAGE_BYTES)


def pages_for(record_bytes: int) -> int:
    """Pages of a segment that holds one record of this size: what a segment has to have at least."""
    pages = record_bytes // PAGE_BYTES
    while pages - 2 * slot_pages(pages) < record_bytes // PAGE_BYTES:
        pages += 1
    return pages


@dataclass(eq=False, slots=True)
class Segment:
    """Books of one segment. Places and sizes are in pages of 4 KiB.

    ``end_page`` is where the next record goes; ``writing`` holds the places of records on their way, from
    which a replay has to start; ``live_bytes`` counts the records in the index, ``fresh_bytes`` those of them
    that had not expired when somebody last looked; ``disk_bytes`` is what the file system says.
    """

    number: int
    capacity_pages: int
    nonce: bytes
    end_page: int = 0
    disk_bytes: int = 0
    live_bytes: int = 0
    fresh_bytes: int = 0
    map_writes: int = 0
    writing: set[int] = field(default_factory=set)
    dead: bytearray = field(default_factory=bytearray)
    removed: bool = False

    def __post_init__(self) -> None:
        if not self.dead:
            self.dead = bytearray(self.capacity_pages // 8 + 1)
        self.end_page = max(self.end_page, self.first_page)

    @property
    def name(self) -> str:
        """File name; it says the number and the capacity, which tells where the slots are."""
        return f"{self.number:010d}-{self.capacity_pages}{SUFFIX}"

    @property
    def first_page(self) -> int:
        """Where records begin."""
        return 2 * slot_pages(self.capacity_pages)

    @property
    def replay_page(self) -> int:
        """Everything before this place is finished: in the index or not to be adopted."""
        return min(self.writing, default=self.end_page)

    @property
    def charged_bytes(self) -> int:
        """What the segment counts for: what the disk holds, or will when the writes under way are done."""
        return max(self.disk_bytes, self.end_page * PAGE_BYTES)

    def is_dead(self, page: int) -> bool:
        """Whether the record at a place is dead."""
        return bool(self.dead[page >> 3] >> (page & 7) & 1)

    def kill(self, page: int) -> None:
        """Mark the record at a place dead; it lasts once the map is written."""
        self.dead[page >> 3] |= 1 << (page & 7)

    def kill_all(self) -> None:
        """Mark all records dead that are there or on their way."""
        dead = (1 << self.end_page) - 1
        self.dead = bytearray(dead.to_bytes(len(self.dead), "little"))
        self.live_bytes = self.fresh_bytes = 0

    def dead_end_page(self) -> int:
        """The page behind the last mark in the dead map, 0 when there is none."""
        return int.from_bytes(self.dead, "little").bit_length()

    def next_slot(self) -> tuple[bytes, int]:
        """The dead map as it is now, padded to pages, and the offset to write it to; counts as a write."""
        self.map_writes += 1
        checked = _HEADER.pack(_MAGIC, 0, self.nonce, self.number, self.capacity_pages, self.map_writes)
        checked = checked[_CHECKED_FROM:] + bytes(self.dead)
        size = slot_pages(self.capacity_pages) * PAGE_BYTES
        slot = _MAGIC + struct.pack("<I", checksum(checked)) + checked
        return slot.ljust(size, b"\0"), self.map_writes % 2 * size


def parse_name(name: str) -> tuple[int, int] | None:
    """Number and capacity in pages from a segment's file name, None when it is another file's."""
    if not name.endswith(SUFFIX):
        return None
    number, _, pages = name.removesuffix(SUFFIX).partition("-")
    if not (number.isdecimal() and pages.isdecimal() and len(name) < 64):
        return None
    return int(number), int(pages)


def decode_slots(number: int, capacity_pages: int, slots: memoryview) -> Segment | None:
    """The segment that the newer whole slot describes, None when neither is whole and of this file."""
    size = slot_pages(capacity_pages) * PAGE_BYTES
    checked_end = _HEADER.size + capacity_pages // 8 + 1
    newest: Segment | None = None
    for slot in (slots[:size], slots[size : 2 * size]):
        if len(slot) < size:
            continue
        magic, own, nonce, said_number, said_pages, writes = _HEADER.unpack_from(slot)
        if magic != _MAGIC or own != checksum(slot[_CHECKED_FROM:checked_end]):
            continue
        if (said_number, said_pages) != (number, capacity_pages) or (newest and newest.map_writes > writes):
            continue
        dead = bytearray(slot[_HEADER.size : checked_end])
        newest = Segment(number, capacity_pages, nonce, map_writes=writes, dead=dead)
    return newest
