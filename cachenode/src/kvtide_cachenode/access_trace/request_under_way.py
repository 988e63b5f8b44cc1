"""What inference keeps: a request that accesses still come to, and which block precedes which. Pure."""

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.contract.trace_line import MAX_BLOCKS

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.client import Client
    from kvtide_cachenode.contract.trace_line import Doubt

LOOK_UP_GAP_S: Final = 5.0  # a request without an access for so long is complete …
STORE_GAP_S: Final = 60.0  # … unless loads or stores are to come: the engine queues, and computes
KNOWN_PARENTS: Final = 24_576  # of each of two generations
REQUEST_BYTES: Final = 1_024
BLOCK_BYTES: Final = 192  # a block's id, its place in the list and in indexes
FLAGS_BYTES: Final = 160  # an array of flags, without the flags
ROOT: Final = -1
BEHIND: Final = -2  # stored behind others, of which the one before it is not known


class Parents:
    """Which block precedes which; the least recently seen are forgotten, a generation at once."""

    def __init__(self) -> None:
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def of(self, block: int) -> int | None:
        """The block before, `ROOT`, `BEHIND`, or None where nothing is known."""
        parent = self._newer.get(block)
        if parent is None and (parent := self._older.get(block)) is not None:
            self.learn(block, parent)
        return parent

    def are_a_chain(self, blocks: tuple[int, ...]) -> bool:
        """Whether two or more blocks are known to follow each other, from the root on."""
        try:
            parents: tuple[int, ...] = itemgetter(*blocks)(self._newer)
        except KeyError:
            return False
        return parents[0] == ROOT and parents[1:] == blocks[:-1]

    def before(self, block: int) -> list[int]:
        """The blocks known to precede one, the nearest last."""
        chain = {block: None}  # a client that uses keys in no order has taught us a circle
        parent = self.of(block)
        while parent is not None and parent >= 0 and parent not in chain and len(chain) < MAX_BLOCKS:
            chain[parent] = None
            parent = self.of(parent)
        del chain[block]
        return list(chain)[::-1]

    def learn(self, block: int, parent: int) -> None:
        """Remember that ``block`` follows ``parent``."""
        if len(self._newer) >= KNOWN_PARENTS and block not in self._newer:
            self._older, self._newer = self._newer, {}
        self._newer[block] = parent


class RequestUnderWay:
    """Its blocks in order, and what was done to which part of them.

    ``done`` has a flag for each block, by part and access. Blocks at the beginning to which nothing was done
    are there because they precede the others; an engine's own cache may have had them.
    """

    __slots__ = (
        "at", "began_ms", "blocks", "charged_bytes", "client", "done", "hit_blocks", "hosts", "is_ambiguous",
        "is_loading", "is_open", "is_scattered", "last_s", "loaded_behind_tip", "looked_up", "missed",
        "presumed", "serial", "size_bytes", "stored_ms",
    )  # fmt: skip

    def __init__(self, serial: int, client: "Client", before: list[int], now_s: float) -> None:
        self.serial = serial
        self.client = client
        self.blocks = before
        self.at: dict[int, int] | None = None  # made when a single block is asked for
        self.done: dict[int, bytearray] = {}
        self.hosts: set[str] = set()
        self.presumed = self.hit_blocks = len(before)
        self.missed = self.looked_up = self.is_loading = False
        self.loaded_behind_tip = self.is_ambiguous = self.is_scattered = False
        self.is_open = True
        self.size_bytes = REQUEST_BYTES + BLOCK_BYTES * len(before)
        self.charged_bytes = 0  # of these, what its keeper has counted
        self.began_ms = int(now_s * 1000)
        self.stored_ms: int | None = None
        self.last_s = now_s

    def place(self, block: int) -> int:
        """Where a block is, -1 if nowhere."""
        if self.at is None:
            if self.blocks and self.blocks[0] == block:
                return 0
            self.at = {block: at for at, block in enumerate(self.blocks)}
        return self.at.get(block, -1)

    def has_loads_to_come(self) -> bool:
        """Whether blocks were found and none was loaded yet."""
        return self.looked_up and self.hit_blocks > self.presumed and not self.is_loading

    def gap_s(self) -> float:
        """After how long without an access it is complete."""
        stores_come = self.missed and self.stored_ms is None
        return STORE_GAP_S if stores_come or self.has_loads_to_come() else LOOK_UP_GAP_S

    def accepts(self, block: int) -> bool:
        """Whether a block may be appended."""
        return self.place(block) < 0 and len(self.blocks) < MAX_BLOCKS

    def append(self, block: int) -> int:
        """Add a block at the end; its place."""
        at = len(self.blocks)
        self.blocks.append(block)
        if self.at is not None:
            self.at[block] = at
        self.size_bytes += BLOCK_BYTES + len(self.done)
        return at

    def begin_with(self, chain: list[int]) -> None:
        """Make a whole chain the blocks of a request that has none yet."""
        self.blocks = chain
        self.size_bytes += BLOCK_BYTES * len(chain)

    def has_done(self, code: int, at: int) -> bool:
        """Whether something was done to a part of the block at a place."""
        done = self.done.get(code)
        return done is not None and at < len(done) and done[at] == 1

    def mark(self, code: int, at: int) -> None:
        """Note that it was done."""
        done = self.done.get(code)
        if done is None:
            self.done[code] = done = bytearray(len(self.blocks))
            self.size_bytes += FLAGS_BYTES + len(self.blocks)
        elif at >= len(done):
            done.extend(bytes(len(self.blocks) - len(done)))
        done[at] = 1

    def mark_first(self, code: int, blocks: list[int]) -> bool:
        """Note that it was done to ``blocks``, which are the first; False where they are not or it was."""
        count = len(blocks)
        done = self.done.get(code)
        if self.blocks[:count] != blocks or (done is not None and 1 in done[:count]):
            return False
        self.mark(code, count - 1)
        self.done[code][:count] = b"\1" * count
        return True

    def found(self, at: int, *, hit: bool) -> None:
        """The block at the last place was asked for."""
        if not hit:
            self.missed = True
        elif not self.missed:
            self.hit_blocks = at + 1

    def miss(self, at: int) -> None:
        """The block at a place was not there, perhaps for one of several ranks only."""
        self.missed = True
        self.hit_blocks = min(self.hit_blocks, at)

    def told(self) -> Inferred:
        """What is known of it. What was stored without being asked for may be no request."""
        skipped = 0
        while not any(self.has_done(code, skipped) for code in self.done):
            skipped += 1
        hit_blocks = max(0, self.hit_blocks - skipped)
        doubt: Doubt | None = None
        if not self.looked_up and not self.is_loading:
            doubt = "stores"
        elif self.is_scattered:
            doubt = "connections"
        elif self.is_ambiguous:
            doubt = "ranks"
        return Inferred(self.began_ms, self.blocks[skipped:], hit_blocks, self.stored_ms, doubt)
