"""A connection as inference sees it. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.inference import Access, Inference
    from kvtide_cachenode.access_trace.request_under_way import RequestUnderWay


class Client:
    """One connection, as far as requests are concerned: what it belonged to at last, and when.

    ``host`` is where it comes from: one machine's engines are told apart from another's.
    """

    def __init__(self, requests: "Inference", host: str = "") -> None:
        self._requests = requests
        self.host = host
        self.request: RequestUnderWay | None = None
        self.last_s = -1.0
        requests.clients += 1

    def access(self, access: "Access", keys: Sequence[bytes], hits: Sequence[bool], now_s: float) -> None:
        """One command: its keys in order, whether each was there, and the unix time in seconds.

        Commands that arrived together carry the same time, by which a client that looks up a whole chain
        at once is told from one that stops at its first miss.
        """
        self._requests.access(self, access, keys, hits, now_s)

    def end_idle(self, now_s: float) -> None:
        """Complete requests that nothing was added to for a while, of whichever connection."""
        self._requests.end_idle(now_s)

    def end(self) -> None:
        """The connection is closed; without any, nothing follows."""
        self._requests.clients -= 1
        if not self._requests.clients:
            self._requests.end()
