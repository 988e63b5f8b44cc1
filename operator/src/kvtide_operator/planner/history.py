"""The access trace as the nodes have told it so far, bounded in time; its owner bounds the bytes."""

from collections import deque
from dataclasses import dataclass

from kvtide_operator.observe.page import Page
from kvtide_operator.workload.readers.node import NodeLines
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace, TraceError


@dataclass(frozen=True, slots=True)
class _Told:
    """A page: decoded once, when it came, or why it could not be."""

    at_s: float
    lines: NodeLines | None
    problem: str = ""

    @property
    def nbytes(self) -> int:
        return self.lines.nbytes if self.lines else 0


class TraceHistory:
    """Pages of trace lines, as the nodes told them within the last ``keep_s`` seconds."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._pages: deque[_Told] = deque()
        self._bytes = 0
        self._trace: Trace | None = None
        self._problem = ""
        self.gap_lines = 0

    def add(self, page: Page, now_s: float) -> None:
        """Take in one node's new lines, read at ``now_s`` on the loop's clock."""
        self.gap_lines += page.gap_lines
        if not page.lines.strip():
            return
        try:
            told = _Told(now_s, NodeLines.decode(TraceText("the nodes' trace", page.lines)))
        except TraceError as error:
            told = _Told(now_s, None, str(error))
        self._pages.append(told)
        self._bytes += told.nbytes
        self._trace = None

    def forget_before(self, now_s: float) -> None:
        """Let go what is older than is kept."""
        while self._pages and self._pages[0].at_s < now_s - self._keep_s:
            self.forget_oldest()

    @property
    def kept_bytes(self) -> int:
        """How much is kept."""
        return self._bytes

    @property
    def problems(self) -> tuple[str, ...]:
        """Why pages that are not forgotten yet, or all of them together, could not be read."""
        pages = tuple(page.problem for page in self._pages if page.problem)
        return (*pages, self._problem) if self._problem else pages

    def forget_oldest(self) -> None:
        """Let the oldest page go, and with it some of the warm-up of the curve."""
        self._bytes -= self._pages.popleft().nbytes
        self._trace = None

    def trace(self, block_tokens: int) -> Trace | None:
        """All that is kept, or None where nothing is; that blocks and tokens agree is taken on trust."""
        parts = [page.lines for page in self._pages if page.lines]
        if parts and (self._trace is None or self._trace.block_tokens != block_tokens):
            self._problem = ""
            try:
                self._trace = NodeLines.joined(parts).trace(block_tokens, trusted=True)
            except TraceError as error:
                self._problem = str(error)
        return self._trace
