"""One connection to a target: one command at a time, values compared as they arrive."""

import asyncio
from collections.abc import Iterable
from typing import Self, cast

from kvtide_cachenode.wire.resp_client import (
    Check,
    Compared,
    ProtocolError,
    Reading,
    Refused,
    Reply,
    ReplyReader,
    encode,
)
from kvtide_operator.replay.targets import Target

RECEIVE_BYTES = 256 * 1024
"""Most bytes read at once. Small enough to be compared while still in a core's own cache."""

LINE_BYTES = 16 * 1024
"""Most bytes of a line of a reply."""

Answer = Reply | Compared

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 5.0
"""Longest wait for a reply. After it the connection is closed, since its next reply would be a late one."""


class PeerError(Exception):
    """The target cannot be reached, closed the connection, was silent too long or broke the protocol."""


class AccessError(Exception):
    """The target answers and does not let us in; trying again is of no use."""


class TargetConnection(asyncio.BufferedProtocol):
    """An open connection. Use `open_to` to make one."""

    def __init__(self) -> None:
        self._replies = ReplyReader(RECEIVE_BYTES, LINE_BYTES)
        self._reading: Reading[Answer] | None = None
        self._into = self._replies.free()  # where the next bytes belong
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._why_lost = "closed the connection"
        self.is_kvtide = False

    @classmethod
    async def open_to(cls, target: Target) -> Self:
        """Connect, authenticate and learn what the server is.

        Raises:
            PeerError: nobody answers there.
            AccessError: the password is wrong or missing.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(cls, target.host, target.port)
        except TimeoutError:
            raise PeerError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise PeerError(f"no connection: {error.strerror or error}") from None
        try:
            await connection._greet(target)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _greet(self, target: Target) -> None:
        if target.password is not None:
            user = () if target.username is None else (target.username.encode(),)
            reply = await self.ask([encode(b"AUTH", *user, target.password.encode())])
            if isinstance(reply, Refused):
                raise AccessError(reply.text)
        # HELLO without a version changes nothing and names the server; servers before Redis 6 do not know it.
        match await self._exchange([encode(b"HELLO")]):
            case Refused(text=text) if text.startswith("NOAUTH"):
                raise AccessError(text)
            case [b"server", b"kvtide", *_]:
                self.is_kvtide = True

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, command: Iterable[bytes | memoryview], check: Check | None = None) -> Answer:
        """Send one encoded command, given in parts, and wait for its reply; ``check`` is for its value.

        Raises:
            PeerError: no whole reply came within ``REPLY_TIMEOUT_S``, or it was none to such a
                command; the connection is closed.
        """
        answer = await self._exchange(command, check)
        if isinstance(answer, list):
            self.close()
            raise PeerError("sent an array where one value belongs")
        return answer

    async def _exchange(self, command: Iterable[bytes | memoryview], check: Check | None = None) -> Answer:
        if self._transport is None or self._transport.is_closing():
            raise PeerError(self._why_lost)
        assert self._waiter is None
        self._reading = self._replies.reply() if check is None else self._replies.compared(check)
        self._into = next(self._reading).memory
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.writelines(command)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                return await self._waiter
        except TimeoutError:
            self.close()
            raise PeerError(f"no reply within {REPLY_TIMEOUT_S:g} s") from None
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    def close(self) -> None:
        """Close at once; nothing unsent is waited for."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's: the connection is open."""
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Asyncio's: where to read into."""
        return self._into

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio's: bytes have come."""
        try:
            if self._reading is None:
                raise ProtocolError("sent bytes that no command asked for")
            self._into = self._reading.send(nbytes).memory
        except StopIteration as end:
            self._finish(end.value)
        except ProtocolError as error:
            self._give_up(str(error))

    def _finish(self, answer: Answer) -> None:
        self._reading, self._into = None, self._replies.free()
        if not self._replies.is_empty:
            self._give_up("sent bytes that no command asked for")
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def _give_up(self, why: str) -> None:
        self._why_lost = why
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's: the connection is gone."""
        if isinstance(exc, OSError):
            self._why_lost = f"lost: {exc.strerror or exc}"
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(PeerError(self._why_lost))
