"""The admin HTTP API, on its own port: status, capacity, trace, probes, metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from hmac import compare_digest
from typing import Final

import msgspec
from aiohttp import web

from kvtide_cachenode.memory_limit import largest_capacity_bytes
from kvtide_cachenode.messages import (
    API_VERSION,
    TRACE_GAP,
    TRACE_NEXT,
    CapacityRequest,
    ErrorReply,
    NodeStatus,
    TierStatus,
    TraceStatus,
)
from kvtide_cachenode.metrics import NodeMetrics
from kvtide_cachenode.node import VERSION, Node
from kvtide_cachenode.quantity import parse_quantity
from kvtide_cachenode.resize import Resizer

MAX_BODY_BYTES: Final = 64 * 1024
SHUTDOWN_S: Final = 2.0
CAPABILITIES: Final = ("dram", "trace")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminServer:
    """Serves the admin API of one node. ``token`` guards all of /v1; probes and metrics are open."""

    def __init__(self, node: Node, token: str | None = None) -> None:
        self._node = node
        self._token = None if token is None else token.encode()
        self._resizer = Resizer(node.store)
        self._metrics = NodeMetrics(node)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and serve from now on; returns the bound address.

        Raises:
            OSError: the address cannot be bound.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/v1/status", self._get_status),
                web.put("/v1/capacity", self._put_capacity),
                web.get("/v1/trace", self._get_trace),
                web.get("/healthz", self._get_health),
                web.get("/readyz", self._get_ready),
                web.get("/metrics", self._get_metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        address = self._runner.addresses[0]
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """Answer what is being answered, then close."""
        await self._resizer.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def status(self) -> NodeStatus:
        """What the node is and holds now."""
        node, store = self._node, self._node.store
        return NodeStatus(
            api_version=API_VERSION,
            version=VERSION,
            boot_id=node.boot_id,
            capabilities=list(CAPABILITIES),
            uptime_s=node.uptime_s(),
            ready=node.ready,
            tiers={
                "dram": TierStatus(
                    store.capacity_bytes,
                    store.used_bytes,
                    store.resident_bytes(),
                    store.wasted_bytes,
                    len(store),
                    _largest_capacity(node),
                )
            },
            resize=self._resizer.progress,
            counters=asdict(store.counters),
            trace=TraceStatus(node.trace.next, len(node.trace), node.trace.dropped),
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token is not None and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "").encode()
            if not compare_digest(given, b"Bearer " + self._token):
                return _refused(401, "this needs the header 'Authorization: Bearer TOKEN'")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            return _refused(405, f"{request.path} takes {allowed}, not {request.method}")
        except web.HTTPNotFound:
            return _refused(404, f"there is no {request.path}: see GET /v1/status")

    async def _get_status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return _answer(self.status())

    async def _put_capacity(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=CapacityRequest).dram
            capacity = parse_quantity(wanted) if isinstance(wanted, str) else wanted
        except (msgspec.MsgspecError, ValueError) as error:
            return _refused(400, f'the body must be {{"dram": bytes}}: {error}')
        if capacity < 0:
            return _refused(400, f"a capacity of {capacity} bytes is below zero")
        largest = _largest_capacity(self._node)
        if capacity > largest:
            return _refused(
                409,
                f"a capacity of {capacity} bytes is above the {largest} bytes that fit this node's memory",
            )
        if not await self._resizer.set_capacity(capacity):
            newer = self._node.store.capacity_bytes
            return _refused(409, f"a newer request set the capacity to {newer} bytes meanwhile")
        status = self.status()
        return _answer(status, 200 if status.resize is None else 202)

    async def _get_trace(self, request: web.Request) -> web.Response:
        try:
            page = self._node.trace.read(request.query.get("since"))
        except ValueError as error:
            return _refused(400, str(error))
        return web.Response(
            body=page.lines,
            content_type="application/jsonl",
            headers={TRACE_NEXT: page.next, TRACE_GAP: str(page.gap)},
        )

    async def _get_health(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        if self._node.ready:
            return web.Response(text="ready\n")
        return _refused(503, "the node is starting or stopping")

    async def _get_metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _largest_capacity(node: Node) -> int:
    """The arena is mapped for the machine's memory; a container's limit may be less and may change."""
    return min(node.store.max_bytes, largest_capacity_bytes())


def _answer(message: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(message), status=status, content_type="application/json")


def _refused(status: int, sentence: str) -> web.Response:
    return _answer(ErrorReply(sentence), status)
