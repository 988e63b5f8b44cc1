"""The requests under way at a node, by what they are looked for: block, part, age. Bounded in bytes. Pure."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.request_under_way import RequestUnderWay

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.client import Client
    from kvtide_cachenode.access_trace.ring import Inferred

MAX_OPEN_BYTES: Final = 4 * 1024 * 1024
MAX_OPEN_REQUESTS: Final = 1_024  # with more of either, the oldest is complete


class OpenRequests:
    """Holds them in order of their beginnings; ``emit`` takes what is known of those that end.

    ``cursors`` say by host, part and access in which request that was done at last. ``holders`` are the
    requests that have a block; of chains taken as a whole only the first block is there, until a single block
    is asked for.
    """

    def __init__(self, emit: "Callable[[Inferred], None]") -> None:
        self.cursors: dict[tuple[str, int], RequestUnderWay] = {}
        self.holders: dict[int, list[RequestUnderWay]] = {}
        self.bytes = 0
        self._emit = emit
        self._open: dict[RequestUnderWay, None] = {}
        self._folded: list[RequestUnderWay] = []
        self._serial = 0

    def __iter__(self) -> Iterator[RequestUnderWay]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def newest(self, count: int) -> Iterator[RequestUnderWay]:
        """At most so many, the newest first."""
        return islice(reversed(self._open), count)

    def holding(self, block: int) -> Sequence[RequestUnderWay]:
        """Those that have a block."""
        if self._folded:
            self._unfold()
        return self.holders.get(block, ())

    def begin(self, client: "Client", before: list[int], now_s: float) -> RequestUnderWay:
        """A new request, with blocks that are presumed."""
        self._serial += 1
        request = RequestUnderWay(self._serial, client, before, now_s)
        self._open[request] = None
        for block in before:
            self._hold(request, block)
        return request

    def begin_chain(self, client: "Client", chain: list[int], now_s: float) -> RequestUnderWay:
        """A new request that consists of a whole chain so far."""
        request = self.begin(client, [], now_s)
        request.begin_with(chain)
        self._hold(request, chain[0])
        self._folded.append(request)
        return request

    def append(self, request: RequestUnderWay, block: int) -> int:
        """Add a block at the end of a request; its place."""
        if self._folded:
            self._unfold()
        self.holders.setdefault(block, []).append(request)
        return request.append(block)

    def charge(self, request: RequestUnderWay) -> None:
        """Count what a request has grown by; with too much, the oldest others end."""
        self.bytes += request.size_bytes - request.charged_bytes
        request.charged_bytes = request.size_bytes
        while len(self._open) > MAX_OPEN_REQUESTS or (self.bytes > MAX_OPEN_BYTES and len(self._open) > 1):
            oldest, second = islice(self._open, 2)
            self.end(second if oldest is request else oldest)

    def end(self, request: RequestUnderWay) -> None:
        """A request is complete."""
        del self._open[request]
        self.bytes -= request.charged_bytes
        for host in request.hosts:
            for code in request.done:
                if self.cursors.get((host, code)) is request:
                    del self.cursors[host, code]
        is_folded = request in self._folded
        if is_folded:
            self._folded.remove(request)
        for block in request.blocks[:1] if is_folded else request.blocks:
            holders = self.holders[block]
            holders.remove(request)
            if not holders:
                del self.holders[block]
        request.is_open = False
        self._emit(request.told())

    def _hold(self, request: RequestUnderWay, block: int) -> None:
        self.holders.setdefault(block, []).append(request)

    def _unfold(self) -> None:
        for request in self._folded:
            for block in request.blocks[1:]:
                self._hold(request, block)
        self._folded.clear()
