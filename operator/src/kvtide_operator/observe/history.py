"""The access trace as the nodes have told it so far, bounded in time; its owner bounds the bytes."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """Trace lines as a node told them, and how many it had dropped before they could be read."""

    lines: bytes
    gap_lines: int = 0


class TraceHistory:
    """Pages of trace lines, as the nodes told them within the last ``keep_s`` seconds."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._pages: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self.gap_lines = 0

    def add(self, page: bytes, now_s: float, gap_lines: int = 0) -> None:
        """Take in one node's new lines, and forget what is too old.

        Args:
            page: whole JSON lines, each ended by a line feed.
            now_s: when they were read, on the loop's clock.
            gap_lines: lines the node had already dropped before they could be read.
        """
        self.gap_lines += gap_lines
        if page:
            self._pages.append((now_s, page))
            self._bytes += len(page)
        while self._pages and self._pages[0][0] < now_s - self._keep_s:
            self.forget_oldest()

    @property
    def kept_bytes(self) -> int:
        """How much is kept."""
        return self._bytes

    def forget_oldest(self) -> None:
        """Let the oldest page go, and with it some of the warm-up of the curve."""
        self._bytes -= len(self._pages.popleft()[1])

    def lines(self) -> bytes:
        """All lines kept, in the order they were told."""
        return b"".join(page for _, page in self._pages)
