"""The admin HTTP API, on its own port: status, capacity, trace, probes, metrics."""

import asyncio
import ssl
import time
from base64 import b64decode
from dataclasses import asdict, replace
from hmac import compare_digest
from typing import Final, TypeVar

from aiohttp import web

from kvtide_cachenode.access.users import ADMIN, Secret
from kvtide_cachenode.contract.messages import (
    API_VERSION,
    TRACE_GAP,
    TRACE_NEXT,
    CapacityRequest,
    ClusterStatus,
    Desired,
    DrainReply,
    DrainRequest,
    NodeStatus,
    TraceStatus,
)
from kvtide_cachenode.control.desired import DesiredState, RefusedError
from kvtide_cachenode.control.http_port import MAX_BODY_BYTES, Handler, HttpPort, answer, refused
from kvtide_cachenode.control.metrics import NodeMetrics
from kvtide_cachenode.control.state import StateFile
from kvtide_cachenode.control.tiers import tier_status
from kvtide_cachenode.node import VERSION, Node
from kvtide_cachenode.peers.drain import CannotDrainError, drain
from kvtide_cachenode.peers.membership import Membership
from kvtide_cachenode.process.decoding import decode_aside

TRACE: Final = "/v1/trace"
CAPABILITIES: Final = ("trace", "desired", "cluster", "drain")

T = TypeVar("T")


class AdminServer:
    """Serves the admin API of one node. ``token`` and users guard all of /v1; probes and metrics are open."""

    def __init__(
        self,
        node: Node,
        token: Secret | None = None,
        state: StateFile | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._node = node
        self._desired = DesiredState(node, state or StateFile(None))
        self._token = token
        self._metrics = NodeMetrics(node)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/v1/status", self._get_status),
                web.put("/v1/capacity", self._put_capacity),
                web.put("/v1/desired", self._put_desired),
                web.post("/v1/drain", self._post_drain),
                web.get(TRACE, self._get_trace),
                web.get("/healthz", self._get_health),
                web.get("/readyz", self._get_ready),
                web.get("/metrics", self._get_metrics),
            ]
        )
        self._port = HttpPort(app, self._guard, (TRACE,), node.failures, tls)
        self._draining = asyncio.Lock()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and serve from now on; returns the bound address.

        Raises:
            OSError: the address cannot be bound.
        """
        address = await self._port.start(host, port)
        self._desired.take_up()
        return address

    async def stop(self) -> None:
        """Answer what is being answered, then close."""
        await self._desired.stop()
        await self._port.stop()

    def status(self) -> NodeStatus:
        """What the node is and holds now."""
        node, desired = self._node, self._desired
        return NodeStatus(
            api_version=API_VERSION,
            version=VERSION,
            boot_id=node.boot_id,
            capabilities=[*tier_status(node.store), *CAPABILITIES],
            uptime_s=node.uptime_s(),
            ready=node.ready,
            tiers=tier_status(node.store),
            resize=desired.resize,
            counters=node.store.counted(),
            trace=TraceStatus(
                node.trace.next, len(node.trace), node.trace.dropped, dict(node.trace.doubted_lines)
            ),
            cluster=_cluster_status(node.cluster),
            desired=desired.newest,
            applied=desired.applied,
            listen=node.listen,
            keeps_state=desired.kept,
            ttl_s=desired.ttl_s,
            trouble=node.store.trouble,
        )

    def _may(self, given: str) -> bool:
        """Whether an Authorization header opens /v1: the token, or a user whose role is admin."""
        said = given.encode("utf-8", "surrogateescape")
        if self._token is not None and compare_digest(said, b"Bearer " + self._token.value):
            return True
        users = self._node.users
        if users.initial is not None:
            return self._token is None
        scheme, _, encoded = given.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = b64decode(encoded, validate=True).partition(b":")
        except ValueError:
            return False
        user = users.check(name, password)
        return user is not None and bool(user.rights & ADMIN)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/") and not self._may(request.headers.get("Authorization", "")):
            return refused(
                401, "this needs the header 'Authorization: Bearer TOKEN', or Basic with a user of role admin"
            )
        try:
            return await handler(request)
        except RefusedError as error:
            return refused(error.status, str(error))

    async def _get_status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return answer(self.status())

    async def _put_capacity(self, request: web.Request) -> web.Response:
        wanted = await _body(request, CapacityRequest, 'the body must be {"dram": bytes, "ssd": bytes}')
        await self._desired.resized(wanted)
        return self._changed()

    async def _put_desired(self, request: web.Request) -> web.Response:
        await self._desired.put(await _body(request, Desired, "this is no desired document"))
        return self._changed()

    def _changed(self) -> web.Response:
        status = self.status()
        return answer(status, 200 if status.resize is None else 202)

    async def _post_drain(self, request: web.Request) -> web.Response:
        wanted = DrainRequest()
        if request.body_exists:
            wanted = await _body(request, DrainRequest, 'the body must be {"deadline_s": seconds}')
        node = self._node
        async with self._draining:
            was_ready, node.ready = node.ready, False
            since_s, before = time.monotonic(), replace(node.cluster.moved)
            try:
                complete = await drain(node.cluster, wanted.deadline_s)
            except CannotDrainError as error:
                node.ready = was_ready and not node.stopping
                return refused(409, str(error))
            except BaseException:
                node.ready = was_ready and not node.stopping  # a defect here must not keep clients away
                raise
            if not complete and node.cluster.owns_slots:
                node.ready = was_ready and not node.stopping  # it serves what it still owns
            moved = node.cluster.moved
            return answer(
                DrainReply(
                    complete,
                    moved.sent - before.sent,
                    moved.sent_bytes - before.sent_bytes,
                    moved.left - before.left,
                    moved.left_bytes - before.left_bytes,
                    time.monotonic() - since_s,
                )
            )

    async def _get_trace(self, request: web.Request) -> web.Response:
        try:
            self._node.inference.settle()
            page = self._node.trace.read(request.query.get("since"))
        except ValueError as error:
            return refused(400, str(error))
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
        return refused(503, "the node is starting, draining or stopping")

    async def _get_metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _cluster_status(member: Membership) -> ClusterStatus:
    moved, view = member.moved, member.view
    return ClusterStatus(
        member.id,
        member.epoch,
        0 if view is None else view.topology.owners.count(view.place),
        dict(member.peers.heard),
        member.emptied,
        moved.sent,
        moved.sent_bytes,
        moved.left,
        moved.left_bytes,
        **asdict(member.counters),
        topology=None if view is None else view.topology,
    )


async def _body(request: web.Request, kind: type[T], expected: str) -> T:
    body = await request.read()
    try:
        return await decode_aside(body, kind)
    except ValueError as error:
        raise RefusedError(400, f"{expected}: {error}") from None
