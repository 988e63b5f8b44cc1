"""RESP as a client speaks it, without I/O: commands to bytes, and replies from what its shell receives.

Every reading is a generator: it yields memory for the next bytes, is sent how many came, and returns what was
read. A blocking socket and asyncio run the same readings.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from kvtide_cachenode.wire.headers import number_in

T = TypeVar("T")

MAX_NUMBER_BYTES: Final = 24
MAX_DEPTH: Final = 8
MAX_ELEMENTS: Final = 65_536  # of an array: CLUSTER SLOTS has one for each range
MAX_REPLY_PARTS: Final = 200_000  # of all arrays in one reply together
MAX_COLLECTED_BYTES: Final = 64 * 1024  # of a bulk string that nobody gave memory for
END: Final = b"\r\n"


class ProtocolError(Exception):
    """The server sent what no RESP server sends; the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error reply; the connection is as good as before."""

    text: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A value that was compared while it came and not kept."""

    length: int
    is_right: bool


class Wanted(NamedTuple):
    """Where the next bytes belong; a shell may put them into `ReplyReader.free` and say that none came.

    ``whole``: nothing goes on before all of it is filled.
    """

    memory: memoryview
    whole: bool


Reply = int | bytes | None | Refused | list["Reply"]
Reading = Generator[Wanted, int, T]

Check = Callable[[int, memoryview], bool]
"""Whether the bytes of a value from a position on are right."""


def encode(*words: bytes) -> bytes:
    """A command of short words."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def encode_set(key: bytes, value_bytes: int) -> bytes:
    """The beginning of SET, up to the value; the value and CRLF follow."""
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, value_bytes)


def encode_parts(words: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A command in parts to send one after another; words that are memory are not copied."""
    parts: list[bytes | memoryview] = []
    text = b"*%d\r\n" % len(words)
    for word in words:
        text += b"$%d\r\n" % len(word)
        if isinstance(word, bytes):
            text += word + END
        else:
            parts += (text, word)
            text = END
    return [*parts, text]


class ReplyReader:
    """What came from a server and was not read yet.

    Args:
        buffer_bytes: most that is received at once where no value is waited for.
        line_bytes: most of a line without its end; more is a `ProtocolError`.
    """

    def __init__(self, buffer_bytes: int, line_bytes: int) -> None:
        assert line_bytes < buffer_bytes
        self._buffer = bytearray(buffer_bytes)
        self._view = memoryview(self._buffer)
        self._line_bytes = line_bytes
        self._start = self._end = 0
        self._parts = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything that came was read."""
        return self._start == self._end

    @property
    def is_full(self) -> bool:
        """Whether `free` is empty, until something is read."""
        return self._end == len(self._view)

    def free(self) -> memoryview:
        """Where bytes belong that come before anything is waited for."""
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """So many bytes were put into `free`."""
        self._end += count

    def here(self, most: int) -> memoryview:
        """Up to ``most`` bytes that came; they stay as they are until `consume`."""
        return self._view[self._start : min(self._end, self._start + most)]

    def consume(self, count: int) -> None:
        """So many bytes of what is here were used."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    def line(self) -> Reading[bytes]:
        """The next line, without its end."""
        while (end := self._buffer.find(END, self._start, self._end)) < 0:
            if self._end - self._start > self._line_bytes:
                raise ProtocolError(f"sent a line of more than {self._line_bytes} bytes")
            yield from self._more()
        line = bytes(self._view[self._start : end])
        self.consume(end + len(END) - self._start)
        return line

    def reply(self, depth: int = 0) -> Reading[Reply]:
        """The next reply, whole."""
        line = yield from self.line()
        self._parts = self._parts + 1 if depth else 0
        kind = line[:1]
        if kind == b"$":
            length = bulk_length(line)
            return None if length is None else (yield from self._collected(length))
        if kind != b"*":
            return _scalar(line)
        count = _number(line)
        if count == -1:
            return None
        if not 0 <= count <= MAX_ELEMENTS or depth > MAX_DEPTH or self._parts > MAX_REPLY_PARTS:
            raise ProtocolError(f"sent an array of {count} elements at depth {depth}")
        elements: list[Reply] = []
        for _ in range(count):
            elements.append((yield from self.reply(depth + 1)))  # noqa: PERF401 - which cannot yield
        return elements

    def value_into(self, memory: memoryview) -> Reading[int | Refused | None]:
        """The reply to a GET: how many bytes came into ``memory``, None where there is no such key."""
        line = yield from self.line()
        if line[:1] == b"-":
            return _refused(line)
        length = bulk_length(line) if line[:1] == b"$" else len(memory) + 1
        if length is None:
            return None
        if length > len(memory):
            raise ProtocolError(f"sent {line[:16]!r} where a value of at most {len(memory)} bytes belongs")
        yield from self._fill(memory[:length])
        return length

    def compared(self, check: Check) -> Reading[Reply | Compared]:
        """The next reply; the bytes of a value go to ``check`` as they come, and are not kept."""
        line = yield from self.line()
        if line[:1] != b"$":
            return _scalar(line)
        length = bulk_length(line)
        if length is None:
            return None
        at, is_right = 0, True
        while at < length:
            if self.is_empty:
                yield from self._more()
            chunk = self.here(length - at)
            is_right = is_right and check(at, chunk)
            at += len(chunk)
            self.consume(len(chunk))
        yield from self._end_of_value()
        return Compared(length, is_right)

    def _collected(self, length: int) -> Reading[bytes]:
        if length > MAX_COLLECTED_BYTES:
            raise ProtocolError(f"sent {length} bytes where a short string belongs")
        value = bytearray(length)
        yield from self._fill(memoryview(value))
        return bytes(value)

    def _fill(self, memory: memoryview) -> Reading[None]:
        """Receive ``memory`` and the end behind it."""
        filled = 0
        while filled < len(memory):
            chunk = self.here(len(memory) - filled)
            if chunk:
                memory[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
                self.consume(len(chunk))
            else:
                filled += yield Wanted(memory[filled:], whole=True)
        yield from self._end_of_value()

    def _end_of_value(self) -> Reading[None]:
        while self._end - self._start < len(END):
            yield from self._more()
        if bytes(self.here(len(END))) != END:
            raise ProtocolError("sent a value without its end")
        self.consume(len(END))

    def _more(self) -> Reading[None]:
        if self._start:
            kept = self._end - self._start
            self._view[:kept] = bytes(self.here(kept))
            self._start, self._end = 0, kept
        count = yield Wanted(self.free(), whole=False)
        self._end += count  # only now: what came through `received` has moved it, too


def bulk_length(line: bytes) -> int | None:
    """The length that a bulk string's first line announces; None for nothing (``$-1``) and other replies.

    Raises:
        ProtocolError: it announces none.
    """
    if line[:1] != b"$":
        return None
    length = _number(line)
    if length >= 0:
        return length
    if length == -1:
        return None
    raise ProtocolError(f"sent {line[:16]!r} where a length belongs")


def _scalar(line: bytes) -> Reply:
    kind = line[:1]
    if kind == b"+":
        return line[1:]
    if kind == b":":
        return _number(line)
    if kind == b"-":
        return _refused(line)
    raise ProtocolError(f"sent {line[:16]!r}, which is no reply that belongs here")


def _refused(line: bytes) -> Refused:
    return Refused(line[1:].decode(errors="replace"))


def _number(line: bytes) -> int:
    number = number_in(line) if len(line) <= MAX_NUMBER_BYTES else None
    if number is None:
        raise ProtocolError(f"sent {line[:16]!r} where a number belongs")
    return number
