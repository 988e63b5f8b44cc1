"""Replies of a RESP2 server, sans-IO: the shell reads into `free()`, says how much came with `received()`."""

from collections.abc import Callable
from dataclasses import dataclass

RECEIVE_BYTES = 256 * 1024
"""Most bytes read at once. Small enough to be compared while still in a core's own cache."""

COLLECTED_MAX = 64 * 1024
"""Most bytes of a reply that are kept. More is a ProtocolError, unless a check takes them as they come."""

ARRAY_MAX = 1024
"""Most elements of an array reply. More is a ProtocolError."""

LINE_MAX = 16 * 1024
"""Most bytes of a line without its end. More is a ProtocolError."""

Check = Callable[[int, memoryview], bool]
"""Whether the bytes of a value from a position on are right."""


class ProtocolError(Exception):
    """The peer sent what no RESP server sends; the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error reply, such as ``OOM command not allowed``. The connection is as good as before."""

    text: str


@dataclass(frozen=True, slots=True)
class CheckedValue:
    """A bulk string that was compared while it came and not kept."""

    length: int
    right: bool


Scalar = int | bytes | CheckedValue | ServerError | None


class ReplyReader:
    """Reads the reply to one command at a time.

    `scalars` holds the finished reply: one element, or all elements of an array, nested ones in a row.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._pending = 0
        self._check: Check | None = None
        self._bulk_length = 0
        self._bulk_left = 0
        self._bulk_right = True
        self._bulk = bytearray()
        self.scalars: list[Scalar] = []

    def expect(self, check: Check | None) -> None:
        """Get ready for the next reply; its bulk strings go to ``check``, or are kept without one."""
        assert not self._pending
        self._pending = 1
        self._check = check
        self.scalars = []

    def free(self) -> memoryview:
        """Where the next bytes from the peer belong; never empty."""
        return self._view[self._filled :]

    def received(self, count: int) -> bool:
        """Take the ``count`` bytes that were put into `free()`; True when the reply is finished.

        Raises:
            ProtocolError: what came is no reply, or exceeds a limit.
        """
        self._filled += count
        at = 0
        while self._pending and at < self._filled:
            if self._bulk_left:
                at += self._take_bulk(at)
                continue
            end = self._buffer.find(b"\r\n", at, self._filled)
            if end < 0:
                if self._filled - at > LINE_MAX:
                    raise ProtocolError(f"a line of more than {LINE_MAX} bytes")
                break
            self._take_line(bytes(self._view[at:end]))
            at = end + 2
        if not self._pending and at < self._filled:
            raise ProtocolError("bytes that no command asked for")
        rest = self._filled - at
        self._view[:rest] = self._view[at : self._filled]
        self._filled = rest
        return not self._pending

    def _take_line(self, line: bytes) -> None:
        kind, text = line[:1], line[1:]
        if kind == b"+":
            self._finish(text)
        elif kind == b"-":
            self._finish(ServerError(text.decode(errors="replace")))
        elif kind == b":":
            self._finish(_integer(text))
        elif kind == b"$":
            self._begin_bulk(_integer(text))
        elif kind == b"*":
            elements = _integer(text)
            if elements > ARRAY_MAX:
                raise ProtocolError(f"an array of {elements} elements")
            self._pending += max(elements, 0) - 1
        else:
            raise ProtocolError(f"a reply that begins with {line[:16]!r}")

    def _begin_bulk(self, length: int) -> None:
        if length < 0:
            self._finish(None)
            return
        if self._check is None and length > COLLECTED_MAX:
            raise ProtocolError(f"a value of {length} bytes where a short one belongs")
        self._bulk_length = length
        self._bulk_left = length + len(b"\r\n")
        self._bulk_right = True
        self._bulk.clear()

    def _take_bulk(self, at: int) -> int:
        taken = min(self._bulk_left, self._filled - at)
        position = self._bulk_length + len(b"\r\n") - self._bulk_left
        chunk = self._view[at : at + min(taken, max(0, self._bulk_length - position))]
        if self._check is None:
            self._bulk += chunk
        elif chunk:
            self._bulk_right = self._bulk_right and self._check(position, chunk)
        self._bulk_left -= taken
        if not self._bulk_left:
            value = bytes(self._bulk) if self._check is None else self._checked()
            self._finish(value)
        return taken

    def _checked(self) -> CheckedValue:
        return CheckedValue(self._bulk_length, self._bulk_right)

    def _finish(self, scalar: Scalar) -> None:
        self.scalars.append(scalar)
        self._pending -= 1


def _integer(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise ProtocolError(f"{text[:16]!r} where a number belongs") from None
