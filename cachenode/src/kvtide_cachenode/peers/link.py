"""One connection to another node, as a peer: commands out, replies in, a bounded buffer in between."""

import asyncio
from typing import Annotated, Final, TypeVar, cast

import msgspec

from kvtide_cachenode.cluster.topology import MAX_EPOCH
from kvtide_cachenode.contract.documents import DocumentError, decode
from kvtide_cachenode.wire import resp_client
from kvtide_cachenode.wire.resp import MAX_VALUE_BYTES
from kvtide_cachenode.wire.resp_client import (
    ProtocolError,
    Reading,
    Refused,
    Reply,
    ReplyReader,
    encode_parts,
)

T = TypeVar("T")

# Of a reply, at most this much is here while the client that asked for it does not read on.
BUFFER_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 1024
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
        self._replies = ReplyReader(BUFFER_BYTES, MAX_LINE_BYTES)
        self._paused = False
        self._lost = False
        self._received = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether the next command can be sent: nothing is left of an earlier one."""
        return not self._lost and not self.owed and self._replies.is_empty

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
        return self._replies.free()

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._replies.received(nbytes)
        if self._replies.is_full:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._received.set()

    def send(self, *words: bytes | memoryview) -> None:
        """Begin to send a command. Large words are not copied: they stay until the reply, or until `gone`."""
        if self._lost or self._transport is None:
            raise PeerLostError("the connection is closed")
        self._transport.writelines(encode_parts(words))
        self.owed += 1

    def taken(self) -> None:
        """A reply was read to its end."""
        self.owed -= 1

    async def line(self) -> bytes:
        """The next line of a reply, without its CRLF."""
        return await self._run(self._replies.line())

    async def chunk(self, most: int) -> memoryview:
        """Up to ``most`` bytes of a reply, at least one. They stay as they are until `consume`."""
        while self._replies.is_empty:
            await self._more()
        return self._replies.here(most)

    def consume(self, count: int) -> None:
        """``count`` bytes of the last chunk were used."""
        self._replies.consume(count)
        self._read_on()

    async def drop(self, count: int) -> None:
        """Read ``count`` bytes of a reply that nobody wants."""
        while count:
            dropped = len(await self.chunk(count))
            self.consume(dropped)
            count -= dropped

    async def reply(self) -> Reply:
        """A whole reply, of bounded size."""
        said = await self._run(self._replies.reply())
        self.taken()
        return said

    async def state(self) -> PeerState:
        """The reply to KVTIDE.PEER."""
        said = await self.reply()
        try:
            return decode(said if isinstance(said, bytes) else b"", PeerState)
        except DocumentError:
            why = said.text if isinstance(said, Refused) else repr(said)
            raise PeerLostError(f"it is no node of this cluster: {why[:200]}") from None

    def close(self) -> None:
        """Close at once."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _run(self, reading: Reading[T]) -> T:
        """Read on as bytes come; they are in the reader when a reading hears of them."""
        try:
            next(reading)
            while True:
                self._read_on()
                await self._more()
                reading.send(0)
        except StopIteration as end:
            self._read_on()
            result: T = end.value
            return result
        except ProtocolError as error:
            raise PeerLostError(str(error)) from None

    def _read_on(self) -> None:
        if self._paused and not self._replies.is_full and self._transport is not None and not self._lost:
            self._paused = False
            self._transport.resume_reading()

    async def _more(self) -> None:
        if self._lost:
            raise PeerLostError("the connection was closed")
        self._received.clear()
        await self._received.wait()


def bulk_length(line: bytes) -> int | None:
    """The length that a bulk string's first line announces; None for other replies and for nothing ($-1).

    Raises:
        PeerLostError: no value has such a length.
    """
    try:
        length = resp_client.bulk_length(line)
    except ProtocolError as error:
        raise PeerLostError(str(error)) from None
    if length is not None and length > MAX_VALUE_BYTES:
        raise PeerLostError(f"sent {line!r}, longer than a value can be")
    return length
