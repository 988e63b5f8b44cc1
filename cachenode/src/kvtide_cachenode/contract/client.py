"""Typed client of a node's admin API.

NodeError ─┬─ NodeUnreachable   no answer: nothing is known about the node
           └─ NodeRefused       it answered no, and said why
"""

import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from kvtide_cachenode.contract.messages import (
    TRACE_GAP,
    TRACE_NEXT,
    CapacityRequest,
    Desired,
    DrainReply,
    DrainRequest,
    ErrorReply,
    NodeStatus,
)

CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0
# A shrink is answered when it is done; the node itself answers after 30 s at the latest.
RESIZE_TIMEOUT_S: Final = 60.0


class NodeError(Exception):
    """Asking a node failed."""


class NodeUnreachable(NodeError):  # noqa: N818 - reads as what it says in an except clause
    """The node did not answer, or what answered is no node."""


class NodeRefused(NodeError):  # noqa: N818 - reads as what it says in an except clause
    """The node refused; ``status`` is the HTTP status, ``sentence`` its reason."""

    def __init__(self, url: str, status: int, sentence: str) -> None:
        super().__init__(f"{url} answered {status}: {sentence}")
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class TracePage:
    """Some lines of the access trace (JSONL), where to read on, and lines lost before the first one."""

    lines: bytes
    next: str
    gap: int


class NodeClient:
    """Talks to one node; use it in ``async with`` or call `close`.

    ``url`` is ``http://HOST:PORT`` of the admin port; with ``https``, ``tls`` says whom to trust and what to
    show (None: the system's authorities, and nothing).
    """

    def __init__(self, url: str, token: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers: dict[str, str] = {}
        if token is not None:
            self.present(token)
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def present(self, token: str) -> None:
        """Show this token from now on."""
        self._headers = {"Authorization": f"Bearer {token}"}

    async def close(self) -> None:
        """Close the connections. The client can be used again afterwards."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def status(self) -> NodeStatus:
        """What the node is and holds now."""
        _, body = await self._ask("GET", "/v1/status")
        return self._decoded(body)

    async def set_capacity(
        self, *, dram_bytes: int | None = None, ssd_bytes: int | None = None
    ) -> NodeStatus:
        """Change the tiers' capacities, None for one that stays; returns once they hold, or with ``resize``
        set if that is slow.

        Raises:
            NodeRefused: 400 for a size that is none, 409 above the machine or when a newer size came in.
        """
        body = msgspec.json.encode(CapacityRequest(dram_bytes, ssd_bytes))
        _, reply = await self._ask("PUT", "/v1/capacity", body=body, timeout_s=RESIZE_TIMEOUT_S)
        return self._decoded(reply)

    async def set_desired(self, document: Desired) -> NodeStatus:
        """Hand over how the node shall be; it is kept when this returns, and holds once ``applied`` says so.

        Raises:
            NodeRefused: 400 for a document that is none, 409 for an older one or a size above the machine.
        """
        body = msgspec.json.encode(document)
        _, reply = await self._ask("PUT", "/v1/desired", body=body, timeout_s=RESIZE_TIMEOUT_S)
        return self._decoded(reply)

    async def drain(self, *, deadline_s: float) -> DrainReply:
        """Empty the node into the other members of its cluster; returns what was moved and what was left.

        Raises:
            NodeRefused: 409 where there is nobody to take its entries, or slots are moving otherwise.
        """
        body = msgspec.json.encode(DrainRequest(deadline_s))
        timeout_s = deadline_s + RESIZE_TIMEOUT_S
        _, reply = await self._ask("POST", "/v1/drain", body=body, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(reply, type=DrainReply)
        except msgspec.MsgspecError as error:
            raise NodeUnreachable(f"{self.url} is not a cache node of this version: {error}") from None

    async def trace(self, since: str | None = None) -> TracePage:
        """The next page of the access trace; an empty one means that there is no more for now."""
        headers, lines = await self._ask("GET", "/v1/trace", {} if since is None else {"since": since})
        try:
            return TracePage(lines, headers[TRACE_NEXT], int(headers[TRACE_GAP]))
        except (KeyError, ValueError):
            raise NodeUnreachable(f"{self.url} answered /v1/trace without its headers") from None

    async def ready(self) -> bool:
        """Whether the node serves clients. An unreachable node is not ready."""
        try:
            await self._ask("GET", "/readyz")
        except NodeError:
            return False
        return True

    def _decoded(self, body: bytes) -> NodeStatus:
        try:
            return msgspec.json.decode(body, type=NodeStatus)
        except msgspec.MsgspecError as error:
            raise NodeUnreachable(f"{self.url} is not a cache node of this version: {error}") from None

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> tuple[Any, bytes]:
        if self._http is None:
            self._http = aiohttp.ClientSession()
        try:
            async with self._http.request(
                method,
                self.url + path,
                params=query,
                data=body,
                headers=self._headers,
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S),
            ) as response:
                said = await response.read()
                if response.status >= 400:
                    raise NodeRefused(self.url, response.status, _reason(said))
                return response.headers, said
        except TimeoutError:
            raise NodeUnreachable(f"{self.url}{path} did not answer in time") from None
        except aiohttp.ClientError as error:
            raise NodeUnreachable(f"{self.url} cannot be reached: {error}") from None


def _reason(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=ErrorReply).error
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace") or "no reason given"
