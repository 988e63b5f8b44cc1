"""An HTTP port with limits: of connections, requests and replies in number, size and time.

What is wrong with a request is one sentence in JSON with a 4xx; nothing of it is logged, since headers hold
secrets. What is wrong with the node is a 500, noted in `Failures`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from kvtide_cachenode.contract.messages import ErrorReply
from kvtide_cachenode.process.failures import Failures

# Above it the connection that has waited longest for its client is closed: a new one is always answered, a
# probe as well.
MAX_CONNECTIONS: Final = 128
# A connection that sends no whole head of a request in this time is closed. Longer than the 15 s after which
# most clients drop an idle connection themselves.
IDLE_S: Final = 20.0
BODY_S: Final = 10.0
# The client takes the whole reply in this time, or is cut off.
REPLY_S: Final = 30.0
SHUTDOWN_S: Final = 2.0
MAX_LINE_BYTES: Final = 8 * 1024
MAX_HEADERS: Final = 64
# A topology in the middle of a move may name each of 16,384 slots.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
SMALL_BODY_BYTES: Final = 64 * 1024
# Bodies above `SMALL_BODY_BYTES`, and replies of `large`, under way at once.
MAX_LARGE: Final = 4
SHOWN_CHARACTERS: Final = 200

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(message: msgspec.Struct, status: int = 200) -> web.Response:
    """A reply in JSON."""
    return web.Response(body=msgspec.json.encode(message), status=status, content_type="application/json")


def refused(status: int, sentence: str) -> web.Response:
    """A refusal: one sentence."""
    return answer(ErrorReply(sentence.encode("utf-8", "backslashreplace").decode()), status)


class HttpPort:
    """Serves ``app``, whose ``guard`` says who may go on: before that nothing of a body is read.

    Of replies to the paths ``large``, and of large bodies, few are under way at once.
    """

    def __init__(
        self,
        app: web.Application,
        guard: Middleware,
        large: Collection[str],
        failures: Failures,
        tls: ssl.SSLContext | None,
    ) -> None:
        app.middlewares[:] = [self._answered, guard, self._received]
        self._large_paths = large
        self._failures = failures
        self._tls = tls
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S)
        self._server: asyncio.Server | None = None
        self._busy: set[object] = set()  # connections whose request is being worked on
        self._open: WeakKeyDictionary[_Connection, None] = WeakKeyDictionary()  # the oldest first
        self._known: WeakSet[object] = WeakSet()  # connections that have had an answer
        self._large = 0

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and serve from now on; returns the bound address.

        Raises:
            OSError: the address cannot be bound.
        """
        await self._runner.setup()
        handshake_s = None if self._tls is None else BODY_S
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, host, port, ssl=self._tls, ssl_handshake_timeout=handshake_s
        )
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """Answer what is being answered, then close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.BaseProtocol:
        """The protocol of a connection that was just accepted."""
        server = self._runner.server
        assert server is not None, "the runner is set up"
        if len(self._open) >= MAX_CONNECTIONS:
            waiting = [each for each in self._open if each not in self._busy]
            if not waiting:
                return _Closed()
            spared = next((each for each in waiting if each not in self._known), waiting[0])
            spared.give_way()
            self._lost(spared)
        made = _Connection(server, self._failures, self._lost)
        self._open[made] = None
        return made

    def _lost(self, connection: "_Connection") -> None:
        self._open.pop(connection, None)

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Outermost: turn whatever happens into a reply, and send it in due time."""
        protocol, large = request.protocol, request.path in self._large_paths
        response: web.StreamResponse = refused(400, "the connection was lost")
        try:
            with self._slot(large):
                response = await self._reply(request, handler)
                async with asyncio.timeout(REPLY_S):
                    await response.prepare(request)
                    await response.write_eof()
        except _BusyError:
            response = refused(503, f"{MAX_LARGE} large requests are under way: try again")
        except TimeoutError:
            protocol.force_close()
        except ConnectionError:
            pass  # the client is gone; aiohttp finds that out for itself
        finally:
            self._busy.discard(protocol)
            self._known.add(protocol)
        return response

    async def _reply(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, web.RequestPayloadError) as error:
            return _refusal(request, error)
        except (ConnectionError, _BusyError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self._failures.note("admin", error, f"{request.method} {request.path}")
            return refused(500, "this went wrong inside the node, whose log tells more")

    @web.middleware
    async def _received(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Innermost: the whole body is here before its handler begins."""
        coding = request.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            return refused(415, f"a body with Content-Encoding {_shown(coding)} is not taken: send it plain")
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, length)
        if request.can_read_body:
            with self._slot(length is None or length > SMALL_BODY_BYTES):
                try:
                    async with asyncio.timeout(BODY_S):
                        await request.read()
                except TimeoutError:
                    return refused(408, f"the body was not there within {BODY_S:.0f} s")
        self._busy.add(request.protocol)
        return await handler(request)

    @contextmanager
    def _slot(self, large: bool) -> Iterator[None]:
        if large and self._large >= MAX_LARGE:
            raise _BusyError
        self._large += large
        try:
            yield
        finally:
            self._large -= large


class _BusyError(Exception):
    """Too many large requests at once."""


class _Closed(asyncio.Protocol):
    """A connection that there is no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()


class _Connection(web.RequestHandler):
    """One client. What is no HTTP is refused in a sentence, and not logged: its headers may hold a secret."""

    __slots__ = ("__weakref__", "_failures", "_gone", "_on_lost")

    def __init__(
        self, server: web.Server, failures: Failures, on_lost: "Callable[[_Connection], None]"
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # what AppRunner passes on, too
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=SHUTDOWN_S,
            auto_decompress=False,
        )
        self._failures = failures
        self._on_lost = on_lost
        self._gone = False

    def give_way(self) -> None:
        """Close at once, or as soon as there is something to close."""
        self._gone = True
        self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        if not self._gone:
            super().connection_made(transport)
        elif isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._on_lost(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What reached no handler: nonsense of the client, or a defect of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("a reply is under way")
        if status >= 500:
            self._failures.note("admin", exc or RuntimeError(message))
            response = refused(status, "this went wrong inside the node, whose log tells more")
        else:
            response = refused(status, "this is no valid HTTP request")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """An exception outside any handler."""
        self._failures.note("admin", kw.get("exc_info") or RuntimeError(str(args[0])))


def _refusal(request: web.Request, error: Exception) -> web.Response:
    """The sentence for what aiohttp refuses."""
    path = _shown(request.path)
    match error:
        case web.HTTPRequestEntityTooLarge():
            return refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        case web.HTTPMethodNotAllowed(allowed_methods=allowed):
            return refused(405, f"{path} takes {', '.join(sorted(allowed))}, not {_shown(request.method)}")
        case web.HTTPNotFound():
            return refused(404, f"there is no {path}: see GET /v1/status")
        case web.HTTPException(status=status, reason=reason):
            return refused(status, f"{path}: {reason}")
        case _:
            return refused(400, "the body is not what its headers say")


def _shown(text: str) -> str:
    return repr(text)[1:-1][:SHOWN_CHARACTERS]
