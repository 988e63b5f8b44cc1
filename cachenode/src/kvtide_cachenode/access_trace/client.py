"""A connection as inference sees it. Pure."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.access import Access
from kvtide_cachenode.access_trace.block_names import MAX_REMEMBERED_KEY_BYTES

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.inference import Inference
    from kvtide_cachenode.access_trace.request_under_way import RequestUnderWay

BATCH: Final = 64  # single keys: a millisecond's work at most


class Client:
    """One connection, as far as requests are concerned: what it belonged to at last, and when.

    ``host`` is where it comes from: one machine's engines are told apart from another's. ``number`` stands
    for it in trace lines, the same at each node.
    """

    def __init__(self, requests: "Inference", host: str = "") -> None:
        self._requests = requests
        self.host = host
        self.number = int.from_bytes(blake2b(host.encode(), digest_size=4).digest()) >> 1 if host else None
        self.request: RequestUnderWay | None = None
        self.last_s = -1.0
        requests.clients += 1

    def access(self, access: Access, keys: Sequence[bytes], hits: Sequence[bool], now_s: float) -> None:
        """One command: its keys in order, whether each was there, and the unix time in seconds.

        Commands that arrived together carry the same time, by which a client that looks up a whole chain
        at once is told from one that stops at its first miss. Single keys wait until there are `BATCH` of
        them: between two values that are moved, what inference needs is in no cache of the processor.
        """
        noted = self._requests.noted
        noted.append((self, access, keys, hits, now_s))
        if len(noted) >= BATCH or len(keys) != 1 or len(keys[0]) > MAX_REMEMBERED_KEY_BYTES:
            self._requests.settle()

    def end_idle(self, now_s: float) -> None:
        """Complete requests that nothing was added to for a while, of whichever connection."""
        self._requests.end_idle(now_s)

    def end(self) -> None:
        """The connection is closed; without any, nothing follows."""
        self._requests.settle()
        self._requests.clients -= 1
        if not self._requests.clients:
            self._requests.end()
