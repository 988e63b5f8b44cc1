"""RESP as a client reads and writes it, in little code of its own: nothing that is checked checks itself."""

import socket
from collections.abc import Iterator
from typing import Final

INCOMPLETE: Final = -1


class RespError(bytes):
    """An error reply, without its sign."""


class Simple(bytes):
    """A simple string, without its sign."""


Reply = bytes | int | None | list["Reply"]


class BrokenStreamError(Exception):
    """What arrived is no RESP: the stream has lost its place."""


class ReplyReader:
    """Bytes in, replies out. Holds what is not complete yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0  # nothing is complete before so many bytes are there

    def feed(self, data: bytes | memoryview) -> Iterator[Reply]:
        buffer = self._buffer
        buffer += data
        at = 0
        while at < len(buffer) and len(buffer) - at >= self._needed:
            self._needed = 0
            reply, end = self._parse(at, at)
            if end == INCOMPLETE:
                break
            at = end
            yield reply
        del buffer[:at]

    def _parse(self, at: int, begin: int) -> tuple[Reply, int]:
        buffer = self._buffer
        end = buffer.find(b"\r\n", at)
        if end < 0:
            if len(buffer) - at > 65_536:
                raise BrokenStreamError(f"a line without an end: {bytes(buffer[at : at + 80])!r}")
            return None, INCOMPLETE
        sign, rest, after = buffer[at], buffer[at + 1 : end], end + 2
        if sign == 0x24:  # $
            length = self._number(rest)
            if length < 0:
                return None, after
            stop = after + length
            if len(buffer) < stop + 2:
                self._needed = stop + 2 - begin
                return None, INCOMPLETE
            if buffer[stop : stop + 2] != b"\r\n":
                raise BrokenStreamError(f"a bulk string of {length} bytes has no end")
            with memoryview(buffer) as view:
                return bytes(view[after:stop]), stop + 2
        if sign == 0x2B:  # +
            return Simple(rest), after
        if sign == 0x2D:  # -
            return RespError(rest), after
        if sign == 0x3A:  # :
            return self._number(rest), after
        if sign == 0x5F:  # _
            return None, after
        if sign in b"*%~":
            return self._array(self._number(rest) * (2 if sign == 0x25 else 1), after, begin)
        raise BrokenStreamError(f"no reply begins so: {bytes(buffer[at : at + 80])!r}")

    def _array(self, count: int, after: int, begin: int) -> tuple[Reply, int]:
        if count < 0:
            return None, after
        replies: list[Reply] = []
        for _ in range(count):
            one, after = self._parse(after, begin)
            if after == INCOMPLETE:
                return None, INCOMPLETE
            replies.append(one)
        return replies, after

    @staticmethod
    def _number(text: bytearray) -> int:
        try:
            return int(text)
        except ValueError:
            raise BrokenStreamError(f"not a number: {bytes(text[:40])!r}") from None


def request(*words: bytes) -> bytes:
    """One RESP command."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def connect(port: int, timeout_s: float | None = 60.0) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Client:
    """One blocking connection: `ask` for an answer, `run` for many commands whose answers are read away."""

    def __init__(self, port: int, password: bytes | None = None, timeout_s: float = 60.0) -> None:
        self.socket = connect(port, timeout_s)
        self._reader = ReplyReader()
        self._waiting: list[Reply] = []
        self._marks = 0
        self._chunk = memoryview(bytearray(1 << 18))
        if password is not None:
            answer = self.ask(b"AUTH", password)
            assert answer == b"OK", f"AUTH answers {answer!r}"

    def ask(self, *words: bytes) -> Reply:
        self.socket.sendall(request(*words))
        return self.read()

    def read(self) -> Reply:
        while not self._waiting:
            count = self.socket.recv_into(self._chunk)
            if not count:
                raise ConnectionResetError("the node closed the connection")
            self._waiting += self._reader.feed(self._chunk[:count])
        return self._waiting.pop(0)

    def run(self, *pieces: bytes | memoryview) -> None:
        """Send commands and read away all their replies, as an ECHO behind them says."""
        self._marks += 1
        mark = b"mark-of-the-end-%012d" % self._marks
        for piece in pieces:
            self.socket.sendall(piece)
        self.socket.sendall(request(b"ECHO", mark))
        end, tail = mark + b"\r\n", b""
        while not tail.endswith(end):
            count = self.socket.recv_into(self._chunk)
            if not count:
                raise ConnectionResetError("the node closed the connection")
            tail = (tail + bytes(self._chunk[max(0, count - 64) : count]))[-64:]

    def close(self) -> None:
        self.socket.close()
