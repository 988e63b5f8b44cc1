"""A reverse proxy in front of an API server that fails the calls it is told to, and remembers what passed.

Clients talk to it without credentials, over plain HTTP on the loopback interface; it adds KUBECONFIG's.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import aiohttp
import yaml
from aiohttp import web

from e2e.client import connect

Failure = Literal["409", "429", "500", "lost", "hang"]
"""``lost``: done, but the connection ends without an answer. ``hang``: neither done nor answered."""
FAILURES: Final[tuple[Failure, ...]] = ("409", "429", "500", "lost", "hang")
_STATUS: Final = {"409": "Conflict", "429": "TooManyRequests", "500": "InternalError"}
_HOP_HEADERS: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A call that arrived: method, path with query, whether it was failed, and what a POST is to create."""

    method: str
    target: str
    failed: bool
    created: str = ""

    @property
    def writes(self) -> bool:
        """Whether it asks for a change."""
        return self.method not in ("GET", "HEAD")


def is_own_write(seen: Seen) -> bool:
    """Any write of the operator but the renewals of its Lease, which come when they come."""
    return seen.writes and "/leases" not in seen.target


@dataclass
class FaultyApi:
    """Use in ``async with``.

    Attributes:
        counts: which calls are numbered.
        fail_at: the numbers of those to fail, the first being 1, and how.
        hang_s: how long a call of kind ``hang`` is held before its connection ends.
    """

    counts: Callable[[Seen], bool] = is_own_write
    fail_at: dict[int, Failure] = field(default_factory=dict)
    hang_s: float = 20.0
    seen: list[Seen] = field(default_factory=list)
    number: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None
    _upstream: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._upstream = connect(auto_decompress=False)
        await self._listen(0)
        return self

    async def go_away(self, away_s: float) -> None:
        """Break all connections off and refuse new ones for a while, as while an API server restarts."""
        assert self._runner is not None
        port = self._runner.addresses[0][1]
        await self._runner.cleanup()
        await asyncio.sleep(away_s)
        await self._listen(port)

    async def _listen(self, port: int) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        assert self._upstream is not None
        await self._runner.cleanup()
        await self._upstream.close()

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig whose cluster is this proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "faulty",
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "faulty"}}],
            "clusters": [{"name": "faulty", "cluster": {"server": self.url}}],
            "users": [{"name": "faulty", "user": {}}],
        }
        path.write_text(yaml.safe_dump(config), "utf-8")
        return path

    def failure_of(self, call: Seen) -> Failure | None:
        """How a call that arrived is to fail, None for not at all; asked once for each."""
        if not self.counts(call):
            return None
        self.number += 1
        return self.fail_at.get(self.number)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        about = ""
        if request.method == "POST":
            about = json.loads(await request.read())["metadata"]["name"]
        arrived = Seen(request.method, request.path_qs, failed=False, created=about)
        failure = self.failure_of(arrived)
        self.seen.append(replace(arrived, failed=failure is not None))
        match failure:
            case "409" | "429" | "500":
                return _refusal(failure)
            case "hang":
                await asyncio.sleep(self.hang_s)
                return _broken_off(request)
            case "lost":
                await self._forward(request, answer=False)
                return _broken_off(request)
        return await self._forward(request, answer=True)

    async def _forward(self, request: web.Request, *, answer: bool) -> web.StreamResponse:
        assert self._upstream is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_HEADERS}
        body = await request.read() or None
        async with self._upstream.request(
            request.method, request.path_qs, headers=headers, data=body
        ) as said:
            if not answer:
                await said.read()
                return web.Response()
            reply = web.StreamResponse(status=said.status)
            for name, value in said.headers.items():
                if name.lower() not in _HOP_HEADERS:
                    reply.headers[name] = value
            await reply.prepare(request)
            async for chunk in said.content.iter_any():
                await reply.write(chunk)
            return reply


def _refusal(failure: Failure) -> web.Response:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": _STATUS[failure],
        "message": f"failed on purpose with {failure}",
        "code": int(failure),
    }
    headers = {"Retry-After": "1"} if failure == "429" else {}
    return web.json_response(status, status=int(failure), headers=headers)


def _broken_off(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()
