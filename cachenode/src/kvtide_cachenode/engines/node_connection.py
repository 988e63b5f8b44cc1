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
from typing import Final, TypeVar

from kvtide_cachenode.wire.resp_client import ProtocolError, Reading, Refused, Reply, ReplyReader, encode

T = TypeVar("T")

RECEIVE_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 16 * 1024
MAX_BUFFERS: Final = 512  # of one sendmsg; Linux takes 1,024

Address = tuple[str, int]


class NodeError(Exception):
    """The node cannot be reached, was silent too long or does not speak RESP."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to come in: user and password, and a TLS context, each None without.

    ``repeats``: what is asked for is what another worker of the engine asks for, and no part of the trace.
    """

    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    repeats: bool = False


class NodeConnection:
    """An open, authenticated connection.

    Raises:
        NodeError: nobody answers at ``address`` by the deadline, or we may not come in.
    """

    def __init__(self, address: Address, credentials: Credentials, deadline_s: float) -> None:
        self._replies = ReplyReader(RECEIVE_BYTES, MAX_LINE_BYTES)
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

    def read(self, deadline_s: float) -> Reply:
        """The next reply.

        Raises:
            NodeError: none came by the deadline, or it breaks the protocol.
        """
        return self._run(self._replies.reply(), deadline_s)

    def read_value(self, memory: memoryview, deadline_s: float) -> int | Refused | None:
        """The reply to a GET: how many bytes came into ``memory``, None where there is no such key.

        Raises:
            NodeError: as `read`; also for a value that does not fit.
        """
        return self._run(self._replies.value_into(memory), deadline_s)

    def _run(self, reading: Reading[T], deadline_s: float) -> T:
        try:
            wanted = next(reading)
            while True:
                flags = socket.MSG_WAITALL if wanted.whole else 0
                wanted = reading.send(self._receive(wanted.memory, deadline_s, flags))
        except StopIteration as end:
            result: T = end.value
            return result
        except ProtocolError as error:
            raise NodeError(str(error)) from None

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
