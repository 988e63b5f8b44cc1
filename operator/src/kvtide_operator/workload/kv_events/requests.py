"""Requests from batches of stored blocks. Pure: time comes with the batches.

What a `BlockStored` event shows (vLLM 0.32, ``block_pool.py``):

* At a prompt's beginning (no parent): a request. Its blocks are new, or the engine had them and the request
  asked for reuse to be reported (``kv_cache_report_mode: full``). Both are accesses, and neither says that
  the engine's memory holds them now. Blocks removed since they were stored last are new.
* Behind the last block of a request under way: several blocks of one event are the next part of its prompt,
  which comes with the same batch or the next; a single one in a later batch was filled by generated tokens.
  SGLang tells of each page in an event of its own, and of all pages of an answer when the request ends:
  events of one batch that follow each other are taken together, and they are an answer when no prompt is
  computed so slowly.
* Behind any other known block: a request whose beginning was reused and not reported. That is the chain which
  ends in this block.
* Behind a block never seen: a request that cannot be told, counted in ``orphans``.

A request of which all was reused and nothing reported leaves no event, so it is missing; so are the tokens of
a prompt that fill no block. A request that waits, for memory or for a connector's look-up, reports its reuse
at every step: a chain reported again by the next batch within `WAIT_S`, with nothing stored behind it, is one
request. What cannot be told apart from generated tokens counts as those: of a prompt computed in parts, a
part of one block; and without reports a request that adds one block behind the last block of another which is
under way.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from kvtide_operator.workload.kv_events.decode import MAX_BLOCKS, Batch, Removed, Stored

MAX_KNOWN_BLOCKS = 262_144
"""Blocks whose parents are remembered, several times what a GPU holds; the least recently stored go first."""
MAX_OPEN_REQUESTS = 10_000
"""Requests that may still grow; with more, the oldest is complete."""
TOKEN_S = 1.0
"""No engine takes longer for a token, so that a request without a new block for so many is complete …"""
IDLE_S = 10.0
"""… but not before so long, which small blocks would make short …"""
ANSWER_S = 60.0
"""… and so long, or twice as long as answers were seen to take, where answers are told when they end."""
PROMPT_TOKEN_S = 0.001
"""Engines compute a prompt's tokens faster than this, and generate an answer's more slowly."""
WAIT_S = 1.0
"""Between two reports of a request that waits lies one step of the engine, at most about so long on a GPU."""


@dataclass(slots=True)
class Request:
    """A request as far as events show it.

    ``blocks`` are its prompt's, root first; ``tip`` is the last block stored for it, of prompt or answer, at
    ``last_s`` in batch ``last_number``; ``is_reported`` says that all of it was known and nothing followed,
    ``is_answered`` that its whole answer was told at once.
    """

    began_s: float
    blocks: list[int]
    tip: int
    last_s: float
    last_number: int
    is_reported: bool = False
    output_blocks: int = 0
    is_answered: bool = False


@dataclass(slots=True)
class Told:
    """Counts: requests, of them rebuilt ones; events that told nothing, by reason; tokens known as reused."""

    requests: int = 0
    rebuilt: int = 0
    orphans: int = 0
    other_block_sizes: int = 0
    reused_tokens: int = 0


class Requests:
    """Takes batches in order and hands complete requests to ``emit``.

    ``block_tokens`` is what the first event says; events of another size (partial blocks) tell nothing.
    """

    def __init__(self, emit: Callable[[Request], None]) -> None:
        self.told = Told()
        self.block_tokens = 0
        self._tells_pages = False  # each in an event of its own, and an answer's when it ends
        self._longest_answer_s = 0.0
        self._emit = emit
        self._parents: OrderedDict[int, int | None] = OrderedDict()
        self._removed: set[int] = set()  # of the known ones
        # The least recently continued first: where the idle ones are.
        self._open: OrderedDict[int, Request] = OrderedDict()
        self._serials_by_tip: dict[int, list[int]] = {}
        self._next_serial = 0

    def add(self, number: int, batch: Batch) -> None:
        """Take the next batch."""
        while self._open and batch.at_s - next(iter(self._open.values())).last_s > self._idle_s:
            self._end_oldest()
        for event, events in _runs(batch.events):
            if isinstance(event, Removed):
                gone = self._parents.keys() if event.blocks is None else event.blocks
                self._removed.update(self._parents.keys() & gone)
                continue
            self.block_tokens = self.block_tokens or event.block_tokens
            self._tells_pages |= events > 1
            if event.block_tokens != self.block_tokens:
                self.told.other_block_sizes += 1
                continue
            if event.parent is None:
                self._from_root(event, number, batch.at_s)
            else:
                self._behind(event, event.parent, events, number, batch.at_s)
            self._learn([event.parent, *event.blocks])

    @property
    def _idle_s(self) -> float:
        """After how long without an event a request is complete."""
        at_once_s = max(ANSWER_S, 2 * self._longest_answer_s) if self._tells_pages else 0.0
        return max(IDLE_S, self.block_tokens * TOKEN_S, at_once_s)

    def end(self) -> None:
        """All requests are complete: nothing follows, or what follows is not known."""
        while self._open:
            self._end_oldest()

    def _from_root(self, event: Stored, number: int, at_s: float) -> None:
        is_reported = all(block in self._parents and block not in self._removed for block in event.blocks)
        if is_reported:
            waiting = self._waiting(event.blocks, number, at_s)
            if waiting is not None:
                self._move(waiting, event.blocks[-1], number, at_s)
                return
            self.told.reused_tokens += len(event.blocks) * event.block_tokens
        self._begin(Request(at_s, list(event.blocks), event.blocks[-1], at_s, number, is_reported))

    def _waiting(self, chain: list[int], number: int, at_s: float) -> int | None:
        """The request that reported ``chain`` in the batch before and still waits."""
        for serial in self._serials_by_tip.get(chain[-1], ()):
            request = self._open[serial]
            is_next = request.last_number == number - 1 and at_s - request.last_s <= WAIT_S
            if is_next and request.is_reported and request.blocks == chain:
                return serial
        return None

    def _behind(self, event: Stored, parent: int, events: int, number: int, at_s: float) -> None:
        serial = self._continued(event, parent, events, number)
        if serial is not None:
            request = self._open[serial]
            blocks = len(event.blocks)
            took_s = at_s - request.last_s
            is_computed = events > 1 and took_s < blocks * event.block_tokens * PROMPT_TOKEN_S
            if number != request.last_number and events == blocks and not is_computed:
                request.output_blocks += blocks
                if blocks > 1:
                    request.is_answered = True
                    self._longest_answer_s = max(self._longest_answer_s, took_s)
            else:
                request.blocks += event.blocks
            request.is_reported = False
            self._move(serial, event.blocks[-1], number, at_s)
            return
        beginning = self._chain(parent)
        if beginning is None:
            self.told.orphans += 1
            return
        self.told.rebuilt += 1
        self.told.reused_tokens += len(beginning) * event.block_tokens
        self._learn([None, *beginning])
        self._begin(Request(at_s, beginning + event.blocks, event.blocks[-1], at_s, number))

    def _continued(self, event: Stored, parent: int, events: int, number: int) -> int | None:
        """The request under way that this event goes on with: of several, the one heard of last."""
        for serial in reversed(self._serials_by_tip.get(parent, ())):
            request = self._open[serial]
            if request.is_answered or len(request.blocks) + len(event.blocks) > MAX_BLOCKS:
                continue
            is_next_part = number - request.last_number <= 1 and not request.output_blocks
            is_answer = len(event.blocks) == 1 or (events > 1 and not request.output_blocks)
            if is_next_part or is_answer:
                return serial
        return None

    def _chain(self, tip: int) -> list[int] | None:
        """The blocks from the root to ``tip``, None where one of them is not known."""
        chain: list[int] = []
        block: int | None = tip
        while block is not None:
            if block not in self._parents or len(chain) == MAX_BLOCKS:
                return None
            chain.append(block)
            block = self._parents[block]
        return chain[::-1]

    def _learn(self, chain: list[int | None]) -> None:
        for parent, block in pairwise(chain):
            assert block is not None, "only the first may be missing"
            self._parents[block] = parent
            self._parents.move_to_end(block)
            self._removed.discard(block)
        while len(self._parents) > MAX_KNOWN_BLOCKS:
            self._removed.discard(self._parents.popitem(last=False)[0])

    def _begin(self, request: Request) -> None:
        self.told.requests += 1
        self._open[self._next_serial] = request
        self._serials_by_tip.setdefault(request.tip, []).append(self._next_serial)
        self._next_serial += 1
        if len(self._open) > MAX_OPEN_REQUESTS:
            self._end_oldest()

    def _move(self, serial: int, tip: int, number: int, at_s: float) -> None:
        """Note that something was heard of a request, and its last block."""
        request = self._open[serial]
        self._leave(serial, request.tip)
        self._serials_by_tip.setdefault(tip, []).append(serial)
        request.tip, request.last_number, request.last_s = tip, number, at_s
        self._open.move_to_end(serial)

    def _leave(self, serial: int, tip: int) -> None:
        serials = self._serials_by_tip[tip]
        serials.remove(serial)
        if not serials:
            del self._serials_by_tip[tip]

    def _end_oldest(self) -> None:
        serial, request = self._open.popitem(last=False)
        self._leave(serial, request.tip)
        self._emit(request)


def _runs(events: list[Stored | Removed]) -> Iterator[tuple[Stored | Removed, int]]:
    """Events, those of one block that follow each other as one; and how many each stands for."""
    run: Stored | None = None
    count = 0
    for event in events:
        if isinstance(event, Stored):
            if run is not None and _goes_on(run, event, count):
                run = Stored(run.parent, run.blocks + event.blocks, run.block_tokens)
                count += 1
                continue
            if run is not None:
                yield run, count
            run, count = event, 1
        else:
            if run is not None:
                yield run, count
            run = None
            yield event, 1
    if run is not None:
        yield run, count


def _goes_on(run: Stored, event: Stored, count: int) -> bool:
    is_of_pages = len(event.blocks) == 1 and len(run.blocks) == count
    return is_of_pages and event.parent == run.blocks[-1] and event.block_tokens == run.block_tokens
