"""Requests put together from single block accesses of clients that report none (the trace's *node* grade).

A prefix look-up walks a chain of blocks, loads the hits and stores the misses. A block's key is a hash over
its whole prefix, so the block before it is always the same one: a key whose known parent is not the last key
of the request under way begins another request. Pure logic; the time is an argument.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import IntEnum
from hashlib import blake2b
from operator import itemgetter
from typing import Final

from kvtide_cachenode.access_trace import MAX_BLOCKS

LOOK_UP_GAP_S: Final = 5.0  # a request without an access for so long is complete …
STORE_GAP_S: Final = 60.0  # … unless it missed and nothing was stored: prefill comes in between
BLOCK_IDS_REMEMBERED: Final = 16_384  # a key is looked up, loaded or stored: hashed once
MAX_PARENTS: Final = 65_536
_ROOT: Final = -1

Emit = Callable[[int, list[int], int], None]
"""Takes a complete request: unix milliseconds of its first access, block ids, blocks hit."""


class Access(IntEnum):
    """What a client does to a block, in the order in which it does it within one request."""

    LOOK_UP = 1
    LOAD = 2
    STORE = 3


def canonical(key: bytes) -> bytes:
    """The block's name without what tells its parts apart.

    LMCache: ``model@world_size@rank@chunk_hash@dtype[@tags][@layer]`` with the suffixes ``metadata`` and
    ``kv_bytes``; ours: ``kvt:model:layout:rank:root:depth:hash``. Rank, layer and suffix are folded.
    """
    if key.startswith(b"kvt:"):
        parts = key.split(b":")
        if len(parts) == 7:
            parts[3] = b""
            return b":".join(parts)
        return key
    if b"@" not in key:
        return key
    parts = key.removesuffix(b"kv_bytes").removesuffix(b"metadata").split(b"@")
    if len(parts) >= 5 and parts[1].isdigit() and parts[2].isdigit():
        parts[2] = b""
        if len(parts) > 5 and parts[-1].isdigit():
            parts.pop()
    return b"@".join(parts)


_ids: dict[bytes, int] = {}
_known_id = _ids.get


def block_id(key: bytes) -> int:
    """A 53-bit id of the block a key belongs to."""
    known = _known_id(key)
    if known is not None:
        return known
    digest = blake2b(canonical(key), digest_size=8).digest()
    if len(_ids) >= BLOCK_IDS_REMEMBERED:
        _ids.clear()
    _ids[key] = block = int.from_bytes(digest, "little") >> 11
    return block


class Parents:
    """Which block precedes which, learnt from all connections; the least recently seen are forgotten."""

    def __init__(self) -> None:
        self._parent: OrderedDict[int, int] = OrderedDict()
        self.of = self._parent.get

    def of_each(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """What precedes each of two or more blocks.

        Raises:
            KeyError: of one it is not known.
        """
        parents: tuple[int, ...] = itemgetter(*blocks)(self._parent)
        return parents

    def learn(self, block: int, parent: int) -> None:
        """Remember that ``block`` follows ``parent`` (or begins a chain)."""
        self._parent[block] = parent
        self._parent.move_to_end(block)
        if len(self._parent) > MAX_PARENTS:
            self._parent.popitem(last=False)


class RequestInference:
    """The request under way on one connection."""

    def __init__(self, parents: Parents, emit: Emit) -> None:
        self._parents = parents
        self._emit = emit
        self._blocks: list[int] = []
        self._reset()

    def _reset(self) -> None:
        self._blocks = []
        self._members: set[int] = set()
        self._done: dict[bytes, Access] = {}  # raw key to the last thing done with it
        # The command that the request consists of so far, when it was a whole chain: members and what was
        # done are in the books only when something follows it.
        self._whole: tuple[Access, Sequence[bytes]] | None = None
        self._hit_blocks = 0
        self._missed = False
        self._storing = False
        self._walked_before_loading = False
        self._began_ms = 0
        self._last_s = 0.0

    def access(self, access: Access, keys: Sequence[bytes], hits: Sequence[bool], now_s: float) -> None:
        """One command: its keys in order, whether each was there, and the unix time in seconds.

        Commands that arrived together carry the same time, by which a client that looks up a whole chain
        at once is told from one that stops at its first miss.
        """
        chain = self._new_chain(access, keys, now_s) if len(keys) > 1 else None
        if chain is not None:
            self.end()
            self._blocks = chain
            self._whole = access, keys
            self._storing = access is Access.STORE
            if not self._storing:
                self._hit_blocks = hits.index(False) if False in hits else len(hits)
                self._missed = self._hit_blocks < len(hits)
            self._began_ms = int(now_s * 1000)
            self._last_s = now_s
            return
        if self._whole is not None:
            self._unfold(*self._whole)
        for key, hit in zip(keys, hits, strict=True):
            self._one(access, key, hit, now_s)

    def end_idle(self, now_s: float) -> None:
        """Complete a request that nothing was added to for a while."""
        waits_for_stores = self._missed and not self._storing
        if now_s - self._last_s > (STORE_GAP_S if waits_for_stores else LOOK_UP_GAP_S):
            self.end()

    def end(self) -> None:
        """Complete the request under way, if any."""
        if self._blocks:
            blocks, began_ms, hit_blocks = self._blocks, self._began_ms, self._hit_blocks
            self._reset()
            self._emit(began_ms, blocks, hit_blocks)

    def _new_chain(self, access: Access, keys: Sequence[bytes], now_s: float) -> list[int] | None:
        """The block ids, when the keys are a request of their own: a chain known from its root on.

        That every block's known parent is the one before it, and that the first has none, proves that no
        block occurs twice. What costs one call a key elsewhere costs a few operations in C here.
        """
        chain: Sequence[int]
        if self._whole is not None and self._whole[1] == keys:  # looked up and loaded, most often
            chain = self._blocks
        else:
            try:
                chain = itemgetter(*keys)(_ids)
                parents = self._parents.of_each(chain)
            except KeyError:
                return None
            if parents[0] != _ROOT or parents[1:] != chain[:-1] or len(keys) > MAX_BLOCKS:
                return None
        if self._blocks:
            first = keys[0]
            if self._whole is not None:
                done, done_keys = self._whole
                if access <= done and first == done_keys[0]:
                    return list(chain)
                self._unfold(done, done_keys)
            gap_s = STORE_GAP_S if access is Access.STORE else LOOK_UP_GAP_S
            if now_s - self._last_s <= gap_s and not self._contradicts(access, first, chain[0], now_s):
                return None
        return list(chain)

    def _unfold(self, access: Access, keys: Sequence[bytes]) -> None:
        """Bring the books of a request that began as a whole chain up to date, block by block."""
        self._members.update(self._blocks)
        self._done.update(dict.fromkeys(keys, access))
        self._whole = None

    def _one(self, access: Access, key: bytes, hit: bool, now_s: float) -> None:
        block = block_id(key)
        if self._blocks:
            gap_s = STORE_GAP_S if access is Access.STORE else LOOK_UP_GAP_S
            if now_s - self._last_s > gap_s or self._contradicts(access, key, block, now_s):
                self.end()
        if block not in self._members:
            self._append(block, now_s)
            if access is not Access.STORE:
                self._count_hit(hit)
        elif access is Access.LOAD and block != self._blocks[-1]:
            self._walked_before_loading = True
        if access is Access.STORE:
            self._storing = True
        self._done[key] = access
        self._last_s = now_s

    def _contradicts(self, access: Access, key: bytes, block: int, now_s: float) -> bool:
        """Whether this access cannot belong to the request under way."""
        done = self._done.get(key)
        if (done is not None and access <= done) or len(self._done) >= MAX_BLOCKS:
            return True
        if self._storing and access is not Access.STORE:
            return True
        if block in self._members:
            return False
        parent = self._parents.of(block)
        if parent is not None:
            return parent != self._blocks[-1]
        if access is Access.STORE:
            return False
        # A new block after a miss, or a look-up after the loads began, goes on only with a client that
        # asks for everything at once.
        stopped = self._missed or (self._walked_before_loading and access is Access.LOOK_UP)
        return stopped and now_s != self._last_s

    def _append(self, block: int, now_s: float) -> None:
        if not self._blocks:
            self._began_ms = int(now_s * 1000)
            if self._parents.of(block) is None:
                self._parents.learn(block, _ROOT)
        elif self._parents.of(block) is None:
            self._parents.learn(block, self._blocks[-1])
        self._blocks.append(block)
        self._members.add(block)

    def _count_hit(self, hit: bool) -> None:
        if hit and not self._missed:
            self._hit_blocks += 1
        self._missed = self._missed or not hit
