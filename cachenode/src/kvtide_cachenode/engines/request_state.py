"""What the scheduler's side knows of one unfinished request, and under which head blocks were computed."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvtide_cachenode.engines.lookup import Found
from kvtide_cachenode.engines.namespace import Head
from kvtide_cachenode.engines.tally import Tally

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vllm.v1.request import Request


@dataclass(slots=True)
class Search:
    """A request's look-ups: one, unless vLLM drops cached blocks while the request waits for free ones.

    All of them together may take ``left_s``, however often vLLM asks. ``found`` says from which block to
    which the nodes have them.
    """

    left_s: float
    running: "Future[Found] | None" = None
    found: tuple[int, int] | None = None
    _start: int = 0
    _began_s: float = 0.0
    _uncounted: list[Found] = field(default_factory=list)

    def end(self, first: int, look_up: "Callable[[float], Future[Found] | None]") -> int | None:
        """Up to where blocks from ``first`` on are there, None while that is looked up.

        ``look_up`` starts one that may take so long; it gives None when there is nothing to look up.
        """
        self._settle()
        is_known = self.found is not None and self.found[0] <= first
        if self.running is None and not is_known and self.left_s > 0:
            self.running = look_up(self.left_s)
            if self.running is None:
                return first
            self._start, self._began_s = first, time.monotonic()
            self._settle()
        if self.running is not None:
            return None
        return max(first, self.found[1]) if self.found is not None and self.found[0] <= first else first

    def count(self, tally: Tally) -> None:
        """The request has been admitted: count what was looked up for that, as one look-up.

        If it loses its blocks, the nodes will have more than was found.
        """
        self.found = None
        if self._uncounted:
            ends = {found.end for found in self._uncounted}
            tally.add("lookups")
            tally.add("lookup_seconds", sum(found.took_s for found in self._uncounted))
            tally.add("lookup_timeouts", "timeout" in ends)
            tally.add("lookup_node_down", "node_down" in ends)
            self._uncounted.clear()

    def _settle(self) -> None:
        if self.running is None:
            return
        if self.running.done():
            found = self.running.result()
        elif time.monotonic() - self._began_s >= self.left_s:
            found = Found(0, "timeout", self.left_s)
        else:
            return
        self.running = None
        self.left_s = max(0.0, self.left_s - found.took_s)
        self.found = self._start, self._start + found.blocks
        self._uncounted.append(found)


@dataclass(slots=True)
class Tracked:
    """One unfinished request, in blocks from the start of its prompt.

    The engine itself has what is before ``first``. Blocks below ``stored_end`` need not be stored: they are
    in the engine from before, or in the nodes. Without ``is_shared`` nothing is: the request goes on from
    blocks that vLLM has cached under another head.
    """

    request: "Request"
    head: "Future[Head | None]"
    search: Search
    came_s: float
    first: int = 0
    stored_end: int = 0
    is_shared: bool = True
    is_new: bool = False  # it has blocks, and no step has been computed
    awaited: "Future[Any] | None" = None
    loaded_after: int | None = None  # preemptions before the last load
    local_hit_blocks: int = 0
    hit_blocks: int | None = None  # the nodes' and the local ones; None until the request has blocks

    def known_head(self) -> Head | None:
        """The beginning of its keys, None where it is not known (yet)."""
        is_known = self.head.done() and not self.head.cancelled() and self.head.exception() is None
        return self.head.result() if is_known else None

    def restart(self, head: "Future[Head | None]") -> None:
        """What was looked up or computed until now is of no use under another head."""
        self.head, self.search = head, Search(self.search.left_s)
        self.is_shared = False


class ComputedUnder:
    """Names of the heads under which blocks of vLLM's cache were computed, where its hashes do not tell.

    As long as no adapter has been replaced, nothing is kept.
    """

    def __init__(self) -> None:
        self._names: dict[int, bytes] = {}

    def note(self, head: Head | None, block_ids: Iterable[int]) -> None:
        """These blocks are computed, or loaded, under ``head``."""
        if head is not None and head.is_replaced:
            self._names.update(dict.fromkeys(block_ids, head.name))
        elif self._names:
            for block_id in block_ids:
                self._names.pop(block_id, None)

    def is_all(self, head: Head | None, block_ids: Sequence[int]) -> bool:
        """Whether what is computed on ``block_ids`` is what ``head`` says."""
        if head is None or not head.is_replaced:
            return head is not None or not block_ids
        return all(self._names.get(block_id) == head.name for block_id in block_ids)
