"""The index on the disk: one file with a checksum, replaced atomically.

It says of every segment from which page on it does not know the records; a restart replays those.
"""

import mmap
import os
import struct
from array import array
from dataclasses import dataclass

from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory
from kvtide_cachenode.store.ssd.index import COLUMN_TYPES, LogIndex
from kvtide_cachenode.store.ssd.record import checksum
from kvtide_cachenode.store.ssd.segment import Segment

SNAPSHOT_NAME = "index.snapshot"
TEMPORARY_NAME = "index.snapshot.tmp"
_MAGIC = b"KVTIDX01"
# magic, checksum, then: next sequence, budget level and its time, rows, bytes of keys, segments
_HEADER = struct.Struct("<8sI QddQQQ")
_CHECKED_FROM = 12
_SEGMENT = struct.Struct("<Q16sI")
# Keys put together at once: a millisecond.
PART_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot says; ``replay_pages``: segment number to nonce and first page it does not know."""

    index: LogIndex
    next_sequence: int
    budget_bytes: float
    taken_at_s: float
    replay_pages: dict[int, tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot is made of, copied so that the index may change: 20 ms for a million entries."""

    next_sequence: int
    budget_bytes: float
    now_s: float
    segments: list[bytes]
    columns: list[bytes]
    keys: list[bytes]


def moment(
    index: LogIndex, segments: list[Segment], next_sequence: int, budget_bytes: float, now_s: float
) -> Moment:
    """The index as it is now."""
    packed = [_SEGMENT.pack(segment.number, segment.nonce, segment.replay_page) for segment in segments]
    columns = [column.tobytes() for column in index.columns()]
    return Moment(next_sequence, budget_bytes, now_s, packed, columns, list(index.keys))


def encode_snapshot(of: Moment) -> memoryview:
    """The snapshot's bytes in page-aligned memory, whole pages.

    For a thread beside the event loop, which comes in between the parts: 200 ms for a million entries.
    """
    keys = [of.keys[first : first + PART_KEYS] for first in range(0, len(of.keys), PART_KEYS)]
    lengths = array("H")
    for some in keys:
        lengths.extend(map(len, some))
    joined = [b"".join(some) for some in keys]
    header = _HEADER.pack(
        _MAGIC, 0, of.next_sequence, of.budget_bytes, of.now_s, len(of.keys), sum(map(len, joined)),
        len(of.segments),
    )  # fmt: skip
    parts = [header[_CHECKED_FROM:], b"".join(of.segments), *of.columns, lengths.tobytes(), *joined]
    length = _CHECKED_FROM + sum(map(len, parts))
    memory = memoryview(mmap.mmap(-1, -(-length // PAGE_BYTES) * PAGE_BYTES))
    at = _CHECKED_FROM
    for part in parts:
        memory[at : at + len(part)] = part
        at += len(part)
    memory[:_CHECKED_FROM] = _MAGIC + struct.pack("<I", checksum(memory[_CHECKED_FROM:length]))
    return memory


def decode_snapshot(memory: memoryview) -> Snapshot | None:
    """What the bytes say, None when they are not a whole snapshot."""
    if len(memory) < _HEADER.size:
        return None
    magic, own, next_sequence, budget, now_s, rows, keys_bytes, segments = _HEADER.unpack_from(memory)
    widths = [array(code).itemsize for code in (*COLUMN_TYPES, "H")]
    length = _HEADER.size + segments * _SEGMENT.size + rows * sum(widths) + keys_bytes
    if magic != _MAGIC or length > len(memory) or own != checksum(memory[_CHECKED_FROM:length]):
        return None
    at = _HEADER.size + segments * _SEGMENT.size
    replay_pages = {
        number: (nonce, page) for number, nonce, page in _SEGMENT.iter_unpack(memory[_HEADER.size : at])
    }
    index = LogIndex()
    key_lengths = array("H")
    for column, width in zip([*index.columns(), key_lengths], widths, strict=True):
        column.frombytes(memory[at : at + rows * width])
        at += rows * width
    keys = bytes(memory[at:length])
    start = 0
    for key_length in key_lengths:
        index.keys.append(keys[start : start + key_length])
        start += key_length
    index.adopt()
    return Snapshot(index, next_sequence, budget, now_s, replay_pages)


def write_snapshot(directory: Directory, memory: memoryview) -> int:
    """Put a snapshot in place of the last one; returns what the disk holds of it.

    Raises:
        OSError: the last one is still there.
    """
    try:
        with directory.opened(TEMPORARY_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            directory.write(fd, [memory], 0)
            directory.sync(fd)
            held = directory.disk_bytes(fd)
        directory.replace(TEMPORARY_NAME, SNAPSHOT_NAME)
    except OSError:
        directory.remove(TEMPORARY_NAME)
        raise
    return held


def read_snapshot(directory: Directory) -> tuple[Snapshot | None, int]:
    """The snapshot, if there is a whole one, and what the disk holds of the file."""
    try:
        with directory.opened(SNAPSHOT_NAME, os.O_RDONLY) as fd:
            size = directory.size(fd)
            if size == 0:
                return None, 0
            memory = memoryview(mmap.mmap(-1, -(-size // PAGE_BYTES) * PAGE_BYTES))
            got = directory.read(fd, [memory], 0)
            return decode_snapshot(memory[:got]), directory.disk_bytes(fd)
    except OSError:
        return None, 0
