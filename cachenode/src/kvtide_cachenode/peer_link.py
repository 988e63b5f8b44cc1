"""One connection to another node, as a peer: commands out, replies in, a bounded buffer in between."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, cast

import msgspec

from kvtide_cachenode.cluster.topology import MAX_EPOCH
from kvtide_cachenode.documents import DocumentError, decode
from kvtide_cachenode.wire.resp import MAX_VALUE_BYTES

# Of a reply, at most this much is here while the client that asked for it does not read on.
BUFFER_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 1024
MAX_SMALL_REPLY_BYTES: Final = 64 * 1024
CONNECT_S: Final = 2.0


class PeerLostError(Exception):
    """The peer cannot be reached, closed the connection, or sent what is no reply."""


class PeerState(msgspec.Struct, frozen=True):
    """Answer to KVTIDE.PEER: a node, the epoch of its topology (0: none), what it may hold and does."""

    id: str
    epoch: Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
    capacity_bytes: int
    used_bytes: int


class PeerLink(asyncio.BufferedProtocol):
    """A connection on which one command, or one pipeline of commands, is under way at a time.

    Whoever uses it reads every reply to its end; a link that was left in the middle is closed.
    """

    def __init__(self) -> None:
        self.epoch = 0  # under which the node at the other end takes our commands
        self.owed = 0  # replies to commands that were sent, of which not every byte was taken
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._paused = False
        self._lost = False
        self._received = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether the next command can be sent: nothing is left of an earlier one."""
        return not self._lost and not self.owed and self._start == self._end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """See `asyncio.BufferedProtocol`."""
        self._lost = True
        self.gone.set()
        self._received.set()

    def eof_received(self) -> bool:
        """See `asyncio.BufferedProtocol`. The transport closes."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """See `asyncio.BufferedProtocol`."""
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._end += nbytes
        if self._end == BUFFER_BYTES:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._received.set()

    def send(self, *words: bytes | memoryview) -> None:
        """Begin to send a command. Large words are not copied: they stay until the reply, or until `gone`."""
        if self._lost or self._transport is None:
            raise PeerLostError("the connection is closed")
        self._transport.writelines(_encoded(words))
        self.owed += 1

    def taken(self) -> None:
        """A reply was read to its end."""
        self.owed -= 1

    async def line(self) -> bytes:
        """The next line of a reply, without its CRLF."""
        while True:
            begun = bytes(self._view[self._start : min(self._end, self._start + MAX_LINE_BYTES)])
            line, end, _ = begun.partition(b"\r\n")
            if end:
                self.consume(len(line) + 2)
                return line
            if len(line) == MAX_LINE_BYTES:
                raise PeerLostError("a line of a reply is too long")
            await self._more()

    async def chunk(self, most: int) -> memoryview:
        """Up to ``most`` bytes of a reply, at least one. They stay as they are until `consume`."""
        while self._start == self._end:
            await self._more()
        return self._view[self._start : min(self._end, self._start + most)]

    def consume(self, count: int) -> None:
        """``count`` bytes of the last chunk were used."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0
            if self._paused and self._transport is not None and not self._lost:
                self._paused = False
                self._transport.resume_reading()

    async def drop(self, count: int) -> None:
        """Read ``count`` bytes of a reply that nobody wants."""
        while count:
            dropped = len(await self.chunk(count))
            self.consume(dropped)
            count -= dropped

    async def small(self) -> bytes:
        """A bulk string of at most `MAX_SMALL_REPLY_BYTES`, or the line of any other reply."""
        line = await self.line()
        length = bulk_length(line)
        if length is None:
            self.taken()
            return line
        if length > MAX_SMALL_REPLY_BYTES:
            raise PeerLostError(f"a reply of {length} bytes where a short one was expected")
        body = b""
        while len(body) < length + 2:
            piece = bytes(await self.chunk(length + 2 - len(body)))
            self.consume(len(piece))
            body += piece
        self.taken()
        return body[:-2]

    async def state(self) -> PeerState:
        """The reply to KVTIDE.PEER."""
        said = await self.small()
        try:
            return decode(said, PeerState)
        except DocumentError:
            raise PeerLostError(
                f"it is no node of this cluster: {said[:200].decode(errors='replace')}"
            ) from None

    def close(self) -> None:
        """Close at once."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._end == BUFFER_BYTES:  # a line at the very end: move it to the front
            kept = self._end - self._start
            self._view[:kept] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, kept
            if self._paused and self._transport is not None and not self._lost:
                self._paused = False
                self._transport.resume_reading()
        if self._lost:
            raise PeerLostError("the connection was closed")
        self._received.clear()
        await self._received.wait()


def bulk_length(line: bytes) -> int | None:
    """The length that a bulk string's first line announces; None for other replies and for nothing ($-1)."""
    if line[:1] != b"$" or line == b"$-1":
        return None
    if not line[1:].isdigit() or int(line[1:]) > MAX_VALUE_BYTES:
        raise PeerLostError("a reply has no valid length")
    return int(line[1:])


def _encoded(words: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A command as parts to send; large words are not copied."""
    parts: list[bytes | memoryview] = []
    text = b"*%d\r\n" % len(words)
    for word in words:
        text += b"$%d\r\n" % len(word)
        if isinstance(word, bytes):
            text += word + b"\r\n"
        else:
            parts += (text, word)
            text = b"\r\n"
    return [*parts, text]
