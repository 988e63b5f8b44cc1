"""The requests under way at a node, by what they are looked for: block, part, age. Bounded in bytes. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.request_under_way import FLAGS_BYTES, RequestUnderWay

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.client import Client
    from kvtide_cachenode.access_trace.ring import Inferred

MAX_OPEN_BYTES: Final = 4 * 1024 * 1024
MAX_OPEN_REQUESTS: Final = 1_024  # with more of either, what nothing came to for longest is complete
MAX_ALIKE: Final = 32  # of one chain at once, to which the same was done and no more; the oldest is complete


class OpenRequests:
    """Holds them in order of their last accesses; ``emit`` takes what is known of those that end.

    ``cursors`` say by host, part and access in which request that was done at last. ``holders`` are the
    requests that have a block, the newest last; of chains taken as a whole only the first block is there,
    until a single block is asked for. ``missed`` are those that missed something.
    """

    def __init__(self, emit: "Callable[[Inferred], None]") -> None:
        self.cursors: dict[tuple[str, int], RequestUnderWay] = {}
        self.holders: dict[int, list[RequestUnderWay]] = {}
        self.missed: dict[RequestUnderWay, None] = {}
        self.bytes = 0
        self._emit = emit
        self._open: OrderedDict[RequestUnderWay, None] = OrderedDict()
        self._folded: dict[RequestUnderWay, None] = {}
        self._serial = 0
        self.touch = self._open.move_to_end

    def __iter__(self) -> Iterator[RequestUnderWay]:
        return iter(sorted(self._open, key=attrgetter("serial")))

    def __len__(self) -> int:
        return len(self._open)

    def latest(self, count: int) -> Iterator[RequestUnderWay]:
        """At most so many, the one with the last access first."""
        return islice(reversed(self._open), count)

    def holding(self, block: int) -> Sequence[RequestUnderWay]:
        """Those that have a block."""
        if self._folded:
            self._unfold()
        return self.holders.get(block, ())

    def begin(self, client: "Client", before: list[int], now_s: float) -> RequestUnderWay:
        """A new request, with blocks that are presumed."""
        request = self._new(client, before, now_s)
        request.presumed = request.hit_blocks = len(before)
        if before:
            if self._folded:
                self._unfold()
            for block in before:
                self._hold(request, block)
        return request

    def begin_whole(self, client: "Client", blocks: list[int], code: int, now_s: float) -> RequestUnderWay:
        """A new request that consists of several blocks so far; the list is shared, and stays as it is."""
        holders = self.holders.get(blocks[0])
        if holders is not None and len(holders) >= MAX_ALIKE:
            request = holders[-MAX_ALIKE]
            if request.blocks is blocks and len(request.done) == 1 and code in request.done:
                del holders[-MAX_ALIKE]
                holders.append(request)
                self.again(request, client, now_s)
                if request.missed:
                    request.missed = False
                    self.missed.pop(request, None)
                return request
        request = self._new(client, blocks, now_s)
        count = len(blocks)
        request.done[code] = bytearray(b"\1" * count)
        request.size_bytes += FLAGS_BYTES + count
        self._hold(request, blocks[0])
        self._folded[request] = None
        return request

    def append(self, request: RequestUnderWay, block: int) -> int:
        """Add a block at the end of a request; its place."""
        if self._folded:
            self._unfold()
        self._hold(request, block)
        return request.append(block)

    def again(self, request: RequestUnderWay, client: "Client", now_s: float) -> None:
        """A request is complete, and the same one begins."""
        self._emit(request.told())
        self._serial += 1
        request.begin_again(self._serial, client, now_s)

    def charge(self, request: RequestUnderWay) -> None:
        """Count what a request has grown by; with too much, others end."""
        self.bytes += request.size_bytes - request.charged_bytes
        request.charged_bytes = request.size_bytes
        while len(self._open) > MAX_OPEN_REQUESTS or (self.bytes > MAX_OPEN_BYTES and len(self._open) > 1):
            oldest = next(iter(self._open))
            if oldest is request:
                self.touch(request)
            else:
                self.end(oldest)

    def end(self, request: RequestUnderWay) -> None:
        """A request is complete."""
        del self._open[request]
        self.missed.pop(request, None)
        self.bytes -= request.charged_bytes
        for host in request.hosts:
            for code in request.done:
                if self.cursors.get((host, code)) is request:
                    del self.cursors[host, code]
        blocks = request.blocks
        if request in self._folded:
            del self._folded[request]
            blocks = blocks[:1]
        for block in blocks:
            holders = self.holders[block]
            if len(holders) == 1:
                del self.holders[block]
            else:
                holders.remove(request)
        request.is_open = False
        self._emit(request.told())

    def _new(self, client: "Client", blocks: list[int], now_s: float) -> RequestUnderWay:
        self._serial += 1
        request = RequestUnderWay(self._serial, client, blocks, now_s)
        self._open[request] = None
        return request

    def _hold(self, request: RequestUnderWay, block: int) -> None:
        holders = self.holders.get(block)
        if holders is None:
            self.holders[block] = [request]
        else:
            holders.append(request)

    def _unfold(self) -> None:
        for request in self._folded:
            request.blocks = request.blocks.copy()
            for block in request.blocks[1:]:
                self._hold(request, block)
        self._folded.clear()
