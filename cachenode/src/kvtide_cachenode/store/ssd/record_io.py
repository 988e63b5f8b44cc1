"""Reading, writing and moving single records; these functions run in the threads of an `IoPool`.

A value whose memory is aligned (`Directory.memory_alignment`) goes between that memory and the device without
a copy; any other goes through the thread's own buffer, piece by piece.
"""

import ctypes
import enum
import mmap
import os
import threading

from kvtide_cachenode.store.ssd.files import PAGE_BYTES, Directory
from kvtide_cachenode.store.ssd.record import (
    HEADER_BYTES,
    Header,
    checksum,
    decode_header,
    encode_header,
    is_inline,
)

# A thread's buffer: 1 MiB keeps the device busy and costs ten threads 10 MiB.
PIECE_BYTES = 1 << 20


class Read(enum.Enum):
    """How a read ended."""

    GOOD = enum.auto()
    CORRUPT = enum.auto()  # not the record that the index knows, or a checksum differs
    GONE = enum.auto()  # the segment was removed meanwhile


class _Buffers(threading.local):
    """A header page, a tail page and a piece, page-aligned, one set a thread."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, PIECE_BYTES + 2 * PAGE_BYTES))
        self.head = memory[:PAGE_BYTES]
        self.tail = memory[PAGE_BYTES : 2 * PAGE_BYTES]
        self.piece = memory[2 * PAGE_BYTES :]


_buffers = _Buffers()


def _is_aligned(memory: memoryview, alignment: int) -> bool:
    """Whether direct I/O can use this memory; read-only memory is taken to be unsuitable."""
    if memory.readonly or not memory.nbytes:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) % alignment == 0


def _whole_pages(length: int) -> int:
    return -(-length // PAGE_BYTES) * PAGE_BYTES


def write_record(
    directory: Directory, name: str, header: Header, value: memoryview, abandoned: threading.Event
) -> int | None:
    """Write one record; returns the bytes that the disk then holds of the segment.

    ``header`` has no value checksum yet. Returns None without writing when ``abandoned`` is set by the time
    the checksum is known: until then the value's memory was untouched, and a change after that makes the
    record fail its checksum, so no record ever carries another value under a valid checksum.

    Raises:
        OSError: the record may be there, whole or in part.
    """
    key_end = HEADER_BYTES + len(header.key)
    length = len(value)
    head = _buffers.head
    encode_header(
        head,
        Header(
            header.nonce, header.page, header.sequence, header.group, header.used_at_s, header.key,
            length, checksum(value),
        ),
    )  # fmt: skip
    inline = is_inline(len(header.key), length)
    if inline:
        head[key_end : key_end + length] = value
    if abandoned.is_set():
        return None
    offset = header.page * PAGE_BYTES
    with directory.opened(name, os.O_WRONLY) as fd:
        if inline:
            directory.write(fd, [head], offset)
        elif _is_aligned(value, directory.memory_alignment):
            whole = length - length % PAGE_BYTES
            buffers = [head, value[:whole]]
            if whole < length:
                buffers.append(_tail(value[whole:]))
            directory.write(fd, buffers, offset)
        else:
            for at in range(0, length, PIECE_BYTES):
                part = value[at : at + PIECE_BYTES]
                _buffers.piece[: len(part)] = part
                directory.write(fd, [_buffers.piece[: _whole_pages(len(part))]], offset + PAGE_BYTES + at)
            # The header goes last: where it is, the value is whole.
            directory.write(fd, [head], offset)
        return directory.disk_bytes(fd)


def _tail(rest: memoryview) -> memoryview:
    tail = _buffers.tail
    tail[: len(rest)] = rest
    tail[len(rest) :] = bytes(PAGE_BYTES - len(rest))
    return tail


def is_record(found: Header | None, wanted: Header) -> bool:
    """Whether a page's header is the one that the index describes (its checksum of the value aside)."""
    return (
        found is not None
        and (found.nonce, found.page, found.sequence) == (wanted.nonce, wanted.page, wanted.sequence)
        and (found.key, found.value_length) == (wanted.key, wanted.value_length)
    )


def read_record(directory: Directory, name: str, wanted: Header, target: memoryview) -> Read:
    """Read the value of the record that the index describes into ``target[:wanted.value_length]``.

    Only after GOOD does the target hold that value; after anything else its contents are undefined.

    Raises:
        OSError: the device failed.
    """
    length = wanted.value_length
    head = _buffers.head
    offset = wanted.page * PAGE_BYTES
    try:
        with directory.opened(name, os.O_RDONLY) as fd:
            if is_inline(len(wanted.key), length):
                if directory.read(fd, [head], offset) < PAGE_BYTES:
                    return Read.CORRUPT
                key_end = HEADER_BYTES + len(wanted.key)
                target[:length] = head[key_end : key_end + length]
                good = True
            elif _is_aligned(target, directory.memory_alignment):
                good = _read_straight(directory, fd, offset, target[:length])
            else:
                good = _read_pieces(directory, fd, offset, target[:length])
    except FileNotFoundError:
        return Read.GONE
    found = decode_header(head) if good else None
    if found is None or not is_record(found, wanted) or checksum(target[:length]) != found.value_checksum:
        return Read.CORRUPT
    return Read.GOOD


def _read_straight(directory: Directory, fd: int, offset: int, target: memoryview) -> bool:
    whole = len(target) - len(target) % PAGE_BYTES
    buffers = [_buffers.head, target[:whole]]
    if whole < len(target):
        buffers.append(_buffers.tail)
    if directory.read(fd, buffers, offset) < sum(map(len, buffers)):
        return False
    target[whole:] = _buffers.tail[: len(target) - whole]
    return True


def _read_pieces(directory: Directory, fd: int, offset: int, target: memoryview) -> bool:
    for at in range(0, len(target), PIECE_BYTES):
        length = min(PIECE_BYTES, len(target) - at)
        piece = _buffers.piece[: _whole_pages(length)]
        buffers = [piece] if at else [_buffers.head, piece]
        start = offset + PAGE_BYTES + at if at else offset
        if directory.read(fd, buffers, start) < sum(map(len, buffers)):
            return False
        target[at : at + length] = piece[:length]
    return True


def move_record(directory: Directory, source: str, wanted: Header, name: str, header: Header) -> int | None:
    """Copy a record to another place; returns the bytes the disk then holds of that segment.

    ``header`` says where to and under which sequence. The header is written last and only when the source's
    checksum holds; None when it does not.

    Raises:
        OSError: the copy may be there, whole or in part.
    """
    head, length = _buffers.head, wanted.value_length
    offset = wanted.page * PAGE_BYTES
    target = header.page * PAGE_BYTES
    with directory.opened(source, os.O_RDONLY) as reading, directory.opened(name, os.O_WRONLY) as writing:
        if directory.read(reading, [head], offset) < PAGE_BYTES:
            return None
        found = decode_header(head)
        if found is None or not is_record(found, wanted):
            return None
        key_end = HEADER_BYTES + len(wanted.key)
        inline = is_inline(len(wanted.key), length)
        value = bytes(head[key_end : key_end + length]) if inline else b""
        value_checksum = checksum(value)
        for at in range(0, 0 if inline else length, PIECE_BYTES):
            size = min(PIECE_BYTES, length - at)
            piece = _buffers.piece[: _whole_pages(size)]
            if directory.read(reading, [piece], offset + PAGE_BYTES + at) < len(piece):
                return None
            value_checksum = checksum(piece[:size], value_checksum)
            directory.write(writing, [piece], target + PAGE_BYTES + at)
        if value_checksum != found.value_checksum:
            return None
        encode_header(
            head,
            Header(
                header.nonce, header.page, header.sequence, header.group, header.used_at_s, header.key,
                length, value_checksum,
            ),
        )  # fmt: skip
        if inline:
            head[key_end : key_end + length] = value
        directory.write(writing, [head], target)
        return directory.disk_bytes(writing)
