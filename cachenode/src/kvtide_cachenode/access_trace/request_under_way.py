"""What inference keeps: a request that accesses still come to, and which block precedes which. Pure."""

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from kvtide_cachenode.access_trace.access import LOAD, LOOK_UP, STORE, Access
from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.contract.trace_line import MAX_BLOCKS

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.client import Client
    from kvtide_cachenode.contract.trace_line import Doubt

LOOK_UP_GAP_S: Final = 5.0  # a request without an access for so long is complete …
STORE_GAP_S: Final = 60.0  # … unless loads or stores are to come: the engine queues, and computes
WALK_GAP_S: Final = 0.03  # between two look-ups of one chain …
LOAD_GAP_S: Final = 0.1  # … between two loads or stores, which take longer …
BLOCK_GAP_S: Final = 2.0  # … and of a chain that is known, where loads come between look-ups
TILES_S: Final = 0.05  # within so long a chain's beginning may follow its middle, through another connection
KNOWN_PARENTS: Final = 24_576  # of each of two generations
REQUEST_BYTES: Final = 1_024
BLOCK_BYTES: Final = 192  # a block's id, its place in the list and in indexes
FLAGS_BYTES: Final = 160  # an array of flags, without the flags
ROOT: Final = -1
BEHIND: Final = -2  # stored behind others, of which the one before it is not known
LOOSE: Final = -3  # asked for behind different ones: none precedes it, and it is no prefix of anything


class Parents:
    """Which block precedes which; the least recently seen are forgotten, a generation at once."""

    def __init__(self) -> None:
        self.version = 0  # another one where something was learnt
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def of(self, block: int) -> int | None:
        """The block before, `ROOT`, `BEHIND`, or None where nothing is known."""
        parent = self._newer.get(block)
        if parent is None and (parent := self._older.get(block)) is not None:
            self.learn(block, parent)
        return parent

    def are_whole(self, blocks: tuple[int, ...]) -> bool:
        """Whether two or more blocks follow each other from the root on, or are different loose ones."""
        try:
            parents: tuple[int, ...] = itemgetter(*blocks)(self._newer)
        except KeyError:
            return False
        if parents[0] == ROOT:
            return parents[1:] == blocks[:-1]
        return parents[0] == LOOSE and set(parents) == {LOOSE} and len(set(blocks)) == len(blocks)

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
        self.version += 1


class RequestUnderWay:
    """Its blocks in order, and what was done to which part of them.

    ``done`` has a flag for each block, by part and access. Blocks at the beginning to which nothing was done
    are there because they precede the others; an engine's own cache may have had them. ``asked_s`` is when it
    was looked up last.
    """

    # What most requests never change is not set in each.
    at: dict[int, int] | None = None  # made when a single block is asked for
    presumed = hit_blocks = charged_bytes = 0
    missed = looked_up = is_loading = False
    loaded_behind_tip = is_ambiguous = is_scattered = False
    is_open = True
    stored_ms: int | None = None
    other_client_s = float("-inf")  # when another connection asked for the same at last

    def __init__(self, serial: int, client: "Client", blocks: list[int], now_s: float) -> None:
        self.serial = serial
        self.client = client
        self.blocks = blocks
        self.done: dict[int, bytearray] = {}
        self.hosts = {client.host}
        self.began_s = self.asked_s = self.last_s = now_s
        self.size_bytes = REQUEST_BYTES + BLOCK_BYTES * len(blocks)

    def begin_again(self, serial: int, client: "Client", now_s: float) -> None:
        """Be the same request once more, of which as much was done."""
        if self.client is not client:
            self.other_client_s = self.last_s
        self.serial = serial
        self.client = client
        self.began_s = self.asked_s = now_s
        if self.stored_ms is not None:
            self.stored_ms = int(now_s * 1000)

    def place(self, block: int) -> int:
        """Where a block is, -1 if nowhere."""
        if self.at is None:
            if self.blocks and self.blocks[0] == block:
                return 0
            self.at = {block: at for at, block in enumerate(self.blocks)}
        return self.at.get(block, -1)

    def place_in_books(self, block: int) -> int:
        """Where a block is that is the first of its own chain, -1 if nowhere; makes no books for it."""
        if self.blocks and self.blocks[0] == block:
            return 0
        return -1 if self.at is None else self.at.get(block, -1)

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

    def lacks(self, access: Access, code: int, at: int, now_s: float) -> bool:
        """Whether the access to the block at a place may be one of the request's."""
        done = self.done.get(code)
        if done is not None and at < len(done) and done[at]:
            return False
        if at < self.presumed and now_s - self.last_s > TILES_S:
            return False
        if access is LOOK_UP and self.is_loading and self.has_done(code + LOAD - LOOK_UP, at):
            return False  # it is looked up before it is loaded
        # Another rank, or another request's block that could not be told from this one's, may have stored.
        return self.stored_ms is None or access is STORE or (access is LOAD and at < self.hit_blocks)

    def continues(self, access: Access, code: int, parent: int | None, now_s: float) -> bool:
        """Whether a block that the request does not have, known to follow ``parent``, is its next one."""
        if parent is None or parent < 0 or len(self.blocks) >= MAX_BLOCKS:
            return False
        if access is STORE:
            return (self.missed or self.stored_ms is not None) and self.place(parent) >= 0
        if access is LOOK_UP and self.loaded_behind_tip:
            return False
        return (
            self.blocks[-1] == parent
            and self.stored_ms is None
            and self.has_done(code, len(self.blocks) - 1)
            and now_s - self.last_s
            <= (WALK_GAP_S if access is LOOK_UP and not self.is_loading else BLOCK_GAP_S)
        )

    def goes_on(self, access: Access, code: int, block: int, parent: int | None) -> bool:
        """Whether a block is the request's next one that arrived together with the one before it."""
        if not self.is_open or not self.accepts(block) or self.stored_ms is not None:
            return False
        if parent is None or parent < ROOT:
            return self.has_done(code, len(self.blocks) - 1)
        return self.continues(access, code, parent, self.last_s)

    def repeats(self, access: Access, hit: bool) -> bool:
        """Whether it is one block to which only this was done, and which waits for nothing else."""
        if len(self.blocks) != 1 or len(self.done) != 1:
            return False
        return access is STORE or (access is LOAD and hit and self.hit_blocks == 1)

    def append(self, block: int) -> int:
        """Add a block at the end; its place."""
        at = len(self.blocks)
        self.blocks.append(block)
        if self.at is not None:
            self.at[block] = at
        self.size_bytes += BLOCK_BYTES + len(self.done)
        return at

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
        blocks, hit_blocks = self.blocks, self.hit_blocks
        if self.presumed:
            skipped = 0
            while not any(self.has_done(code, skipped) for code in self.done):
                skipped += 1
            blocks, hit_blocks = blocks[skipped:], max(0, hit_blocks - skipped)
        doubt: Doubt | None = None
        if not self.looked_up and not self.is_loading:
            doubt = "stores"
        elif self.is_scattered:
            doubt = "connections"
        elif self.is_ambiguous:
            doubt = "ranks"
        began_ms = int(self.began_s * 1000)
        began_us = int(self.began_s * 1e6) - began_ms * 1000
        asked_us = began_us, began_us + max(0, int((self.asked_s - self.began_s) * 1e6))
        return Inferred(
            began_ms, blocks, hit_blocks, self.stored_ms, doubt, self.client.number, asked_us, self.missed
        )
