"""What a cache may answer: values that tell whose they are, and the two kinds of keys that know it.

A cache may forget a value at any time, so nil is never wrong; a value that is older than the newest
acknowledged one, or another key's, always is.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Final, Protocol

MAX_VALUE_BYTES: Final = 70 << 20
_POOL_BYTES: Final = MAX_VALUE_BYTES + (2 << 20)
_HEADER: Final = struct.Struct(
    ">QIQI"
)  # a mix of the rest, so that even one byte says something; key; serial; length
_MASK: Final = 2**64 - 1


class Values:
    """A value is made of its key's number, its serial and its length: it can be made again at any time."""

    def __init__(self, seed: int) -> None:
        self._pool = memoryview(random.Random(seed).randbytes(_POOL_BYTES))
        self._serial = 0

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def parts(self, key: int, serial: int, length: int) -> tuple[bytes, memoryview]:
        """A value's header and its body."""
        mix = (serial * 0x9E3779B97F4A7C15 ^ (key + 1) * 0xC2B2AE3D27D4EB4F) & _MASK
        header = _HEADER.pack(mix, key, serial, length)[:length]
        begin = serial * 7919 % (_POOL_BYTES - MAX_VALUE_BYTES)
        return header, self._pool[begin : begin + length - len(header)]

    def equal(self, value: bytes, key: int, serial: int, length: int) -> bool:
        if len(value) != length:
            return False
        header, body = self.parts(key, serial, length)
        return value.startswith(header) and memoryview(value)[len(header) :] == body

    @staticmethod
    def told(value: bytes) -> tuple[int, int] | None:
        """The key's number and the serial that a value says of itself, if it is long enough to say so."""
        if len(value) < _HEADER.size:
            return None
        _, key, serial, _ = _HEADER.unpack_from(value)
        return key, serial

    @staticmethod
    def shown(value: bytes | None) -> str:
        if value is None:
            return "nil"
        told = Values.told(value)
        named = f" of key {told[0]}, serial {told[1]}" if told else f" {value!r}"
        return f"{len(value)} bytes{named}"


@dataclass(slots=True)
class Write:
    """One value on its way, and when that began. ``ended`` stays infinite while nobody knows its fate."""

    serial: int
    length: int
    began: int
    ended: float = inf
    refused: bool = False
    first_end: float = inf  # of the write and the reads that returned it: the earliest end, the latest begin
    last_begin: float = 0


class Key(Protocol):
    """A key of the run: what was written under it, and whether an answer can be true."""

    number: int
    name: bytes

    def begin(self, length: int, now: int) -> Write: ...
    def wrote(self, write: Write, now: int) -> None: ...
    def refused(self, write: Write) -> None: ...
    def unsure(self, write: Write) -> None: ...
    def deleted(self, began: int, now: int) -> None: ...
    def read(self, value: bytes | None, began: int, now: int) -> str | None: ...
    def may_exist(self) -> bool: ...
    def may_have_length(self, length: int) -> bool: ...


@dataclass
class PrivateKey:
    """A key of one connection: commands run in its order, so the answer is known, or nil."""

    number: int
    name: bytes
    values: Values
    shortest: int = 1
    forgotten: bool = False  # nil was read, and nothing was written since
    came_back: int = 0
    _possible: dict[int, int] = field(
        default_factory=dict
    )  # serial to length; more than one: a write's fate is unknown

    def begin(self, length: int, now: int) -> Write:
        return Write(self.values.serial(), length, now)

    def wrote(self, write: Write, now: int) -> None:  # noqa: ARG002 - as every key
        self._possible = {write.serial: write.length}
        self.forgotten = False

    def refused(self, write: Write) -> None:
        """The key keeps what it has."""

    def unsure(self, write: Write) -> None:
        self._possible[write.serial] = write.length
        self.forgotten = False

    def deleted(self, began: int, now: int) -> None:  # noqa: ARG002
        self._possible = {}

    def read(self, value: bytes | None, began: int, now: int) -> str | None:  # noqa: ARG002
        if value is None:
            self.forgotten = True
            return None
        for serial, length in self._possible.items():
            if self.values.equal(value, self.number, serial, length):
                self._possible = {serial: length}
                self.came_back += self.forgotten
                self.forgotten = False
                return None
        return (
            f"{self.name[:40]!r} (number {self.number}) has {Values.shown(value)}; "
            f"possible are (serial: length) {self._possible or 'none'}"
        )

    def may_exist(self) -> bool:
        return bool(self._possible)

    def may_have_length(self, length: int) -> bool:
        return not length or length in self._possible.values()


@dataclass
class SharedKey:
    """A key of all connections: a linearisable register; DEL writes nil, and nil needs no write.

    Every value is written once, so a write and the reads that returned it are one cluster. Where the latest
    of them began after the earliest had ended, the value was there all the time between; another value that
    was there for some of that time, or a whole write or DEL within it, has no place in any order.
    """

    number: int
    name: bytes
    values: Values
    shortest: int = _HEADER.size
    _writes: dict[int, Write] = field(default_factory=dict)
    _deletes: list[tuple[int, int]] = field(default_factory=list)

    def begin(self, length: int, now: int) -> Write:
        write = Write(self.values.serial(), max(length, self.shortest), now, last_begin=now)
        self._writes[write.serial] = write
        return write

    def wrote(self, write: Write, now: int) -> None:
        write.ended = now
        write.first_end = min(write.first_end, now)

    def refused(self, write: Write) -> None:
        write.refused = True

    def unsure(self, write: Write) -> None:
        """Its end stays open."""

    def deleted(self, began: int, now: int) -> None:
        self._deletes.append((began, now))

    def read(self, value: bytes | None, began: int, now: int) -> str | None:
        if value is None:
            return None
        told = Values.told(value)
        write = self._writes.get(told[1]) if told is not None else None
        if write is None or not self.values.equal(value, self.number, write.serial, write.length):
            shown = Values.shown(value)
            return f"{self.name!r} (number {self.number}) has {shown}, which was never written there"
        write.first_end = min(write.first_end, now)
        write.last_begin = max(write.last_begin, began)
        return None

    def may_exist(self) -> bool:
        return True

    def may_have_length(self, length: int) -> bool:  # noqa: ARG002
        return True

    def contradictions(self) -> Iterator[str]:
        """Where no order of the writes and reads explains what was read."""
        named = repr(self.name)
        for write in self._writes.values():
            if write.refused and write.first_end < inf:
                yield f"{named}: serial {write.serial} was refused and read"
        used = [write for write in self._writes.values() if not write.refused]
        there = sorted((w.first_end, w.last_begin, w.serial) for w in used if w.first_end < w.last_begin)
        for (_, until, one), (since, _, other) in pairwise(there):
            if since < until:
                yield f"{named}: serial {one} is read again after serial {other} was seen"
        moments = [
            (w.last_begin, w.first_end, f"serial {w.serial}") for w in used if w.first_end >= w.last_begin
        ]
        moments += [(began, ended, "a DEL") for began, ended in self._deletes]
        for begin, end, what in sorted(moments):
            for since, until, serial in there:
                if since >= begin:
                    break
                if end < until:
                    yield f"{named}: serial {serial} is read after {what}, which was written later"
