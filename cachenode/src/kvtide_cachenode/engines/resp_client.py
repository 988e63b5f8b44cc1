"""A blocking connection to one node, for values of megabytes: they arrive where they are wanted.

Every call has a deadline (`time.monotonic`); whoever sees an exception closes the connection, since its next
reply would be a late one.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RECEIVE_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 16 * 1024
MAX_ELEMENTS: Final = 65_536  # of an array: CLUSTER SLOTS has one for each range
MAX_DEPTH: Final = 8
MAX_REPLY_PARTS: Final = 200_000  # of all arrays in one reply together
MAX_COLLECTED_BYTES: Final = 64 * 1024  # of a bulk string that nobody gave memory for
MAX_BUFFERS: Final = 512  # of one sendmsg; Linux takes 1,024

Address = tuple[str, int]


class NodeError(Exception):
    """The node cannot be reached, was silent too long or does not speak RESP."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error reply; the connection is as good as before."""

    text: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to come in: user and password, and a TLS context, each None without.

    ``repeats``: what is asked for is what another worker of the engine asks for, and no part of the trace.
    """

    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    repeats: bool = False


Reply = int | bytes | None | Refused | list["Reply"]


def encode(*arguments: bytes) -> bytes:
    """A command as RESP sends it."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def encode_set(key: bytes, value_bytes: int) -> bytes:
    """The beginning of SET, up to the value; the value and CRLF follow."""
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, value_bytes)


class Connection:
    """An open, authenticated connection.

    Raises:
        NodeError: nobody answers at ``address`` by the deadline, or we may not come in.
    """

    def __init__(self, address: Address, credentials: Credentials, deadline_s: float) -> None:
        self._buffer = bytearray(RECEIVE_BYTES)
        self._start = self._end = 0
        self._parts = 0
        try:
            self._socket = socket.create_connection(address, _left(deadline_s))
        # A name or a port that cannot be: some node has told us of it.
        except (OSError, ValueError, OverflowError) as error:
            raise NodeError(f"no connection: {error}") from None
        try:
            self._enter(address, credentials, deadline_s)
        except BaseException:
            self.close()
            raise

    def _enter(self, address: Address, credentials: Credentials, deadline_s: float) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if credentials.tls is not None:
                self._socket = credentials.tls.wrap_socket(self._socket, server_hostname=address[0])
            else:
                self._socket.settimeout(None)
        except (OSError, ValueError) as error:
            raise NodeError(f"no connection: {error}") from None
        if credentials.password is not None:
            user = () if credentials.username is None else (credentials.username.encode(),)
            reply = self.ask(encode(b"AUTH", *user, credentials.password.encode()), deadline_s)
            if isinstance(reply, Refused):
                raise NodeError(reply.text)
        if credentials.repeats:  # an older node refuses this, and doubts the requests instead
            self.ask(encode(b"KVTIDE.TRACE", b"OFF"), deadline_s)

    def close(self) -> None:
        """Close at once."""
        self._socket.close()

    def is_open(self) -> bool:
        """Whether the node has not closed it, as far as is known here."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return not poll.poll(0)

    def ask(self, command: bytes, deadline_s: float) -> Reply:
        """Send one command and read its reply."""
        self.send([command], deadline_s)
        return self.read(deadline_s)

    def send(self, parts: Sequence[bytes | memoryview], deadline_s: float) -> None:
        """Send ``parts`` one after another, without joining them.

        Raises:
            NodeError: they were not taken by the deadline.
        """
        left = [memoryview(part) for part in parts]
        try:
            while left:
                sent = self._send(left[:MAX_BUFFERS], deadline_s)
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]
        except BlockingIOError:
            raise NodeError("it takes nothing") from None
        except OSError as error:
            raise NodeError(f"not sent: {error}") from None

    def read(self, deadline_s: float, depth: int = 0) -> Reply:
        """The next reply.

        Raises:
            NodeError: none came by the deadline, or it breaks the protocol.
        """
        line = self._line(deadline_s)
        self._parts = self._parts + 1 if depth else 0
        kind, text = line[:1], line[1:]
        if kind == b"+":
            return text
        if kind == b"-":
            return Refused(text.decode(errors="replace"))
        if kind == b":":
            return _number(text)
        if kind == b"$":
            length = _number(text)
            if length < 0:
                return None
            if length > MAX_COLLECTED_BYTES:
                raise NodeError(f"sent {length} bytes where a short string belongs")
            value = bytearray(length)
            self._fill(memoryview(value), deadline_s)
            return bytes(value)
        if kind == b"*":
            count = _number(text)
            if count > MAX_ELEMENTS or depth > MAX_DEPTH or self._parts > MAX_REPLY_PARTS:
                raise NodeError(f"sent an array of {count} elements at depth {depth}")
            return [self.read(deadline_s, depth + 1) for _ in range(count)]
        raise NodeError(f"sent {line[:16]!r}, which is no RESP reply")

    def read_value(self, memory: memoryview, deadline_s: float) -> int | Refused | None:
        """The reply to a GET: how many bytes came into ``memory``, None where there is no such key.

        Raises:
            NodeError: as `read`; also for a value that does not fit.
        """
        line = self._line(deadline_s)
        if line[:1] == b"-":
            return Refused(line[1:].decode(errors="replace"))
        length = _number(line[1:]) if line[:1] == b"$" else len(memory) + 1
        if length < 0:
            return None
        if length > len(memory):
            raise NodeError(f"sent {line[:16]!r} where a value of at most {len(memory)} bytes belongs")
        self._fill(memory[:length], deadline_s)
        return length

    def _fill(self, memory: memoryview, deadline_s: float) -> None:
        """Receive ``memory`` and the CRLF behind it."""
        here = min(len(memory), self._end - self._start)
        memory[:here] = memoryview(self._buffer)[self._start : self._start + here]
        self._start += here
        while here < len(memory):
            here += self._receive(memory[here:], deadline_s, socket.MSG_WAITALL)
        while self._end - self._start < 2:
            self._more(deadline_s)
        if self._buffer[self._start : self._start + 2] != b"\r\n":
            raise NodeError("sent a value without its end")
        self._start += 2

    def _line(self, deadline_s: float) -> bytes:
        while (end := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            if self._end - self._start > MAX_LINE_BYTES:
                raise NodeError(f"sent a line of more than {MAX_LINE_BYTES} bytes")
            self._more(deadline_s)
        line = bytes(self._buffer[self._start : end])
        self._start = end + 2
        return line

    def _more(self, deadline_s: float) -> None:
        if self._start:
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept
        self._end += self._receive(memoryview(self._buffer)[self._end :], deadline_s)

    def _send(self, buffers: Sequence[memoryview], deadline_s: float) -> int:
        if isinstance(self._socket, ssl.SSLSocket):  # has no sendmsg
            self._socket.settimeout(_left(deadline_s))
            return self._socket.send(buffers[0])
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_left(deadline_s)))
        return self._socket.sendmsg(buffers)

    def _receive(self, memory: memoryview, deadline_s: float, flags: int = 0) -> int:
        """Receive something; with ``MSG_WAITALL`` all of ``memory`` by the deadline, but not with TLS.

        The kernel waits, not the interpreter: a value of megabytes is one system call, after which this
        thread takes the interpreter's lock once and not a hundred times.
        """
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.settimeout(_left(deadline_s))
                count = self._socket.recv_into(memory)
            else:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_left(deadline_s)))
                count = self._socket.recv_into(memory, 0, flags)
        except BlockingIOError:
            raise NodeError("no reply in time") from None
        except OSError as error:
            raise NodeError(f"no reply: {error}") from None
        if not count:
            raise NodeError("closed the connection")
        return count


def _timeval(seconds: float) -> bytes:
    """``struct timeval``; zero would mean to wait for ever."""
    return struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1e6)))


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise NodeError("the deadline has passed")
    return left_s


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise NodeError(f"sent {text[:16]!r} where a number belongs") from None
