"""Leaving DRAM: what the policy gives up is written to the SSD log before its room is needed.

An entry leaves in steps. The policy gives it up (`_stage`); it is written, from where it lies, or known to
be on the SSD already; then it is *spare*: still there to be read, and freed at once when something needs the
room. Only when room is needed and nothing is spare an entry goes without being written, and is counted.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final
from zlib import crc32

from kvtide_cachenode.contract.sizing import LOG_INDEX_SHARE
from kvtide_cachenode.placement import Policy, SsdWrites, is_written, root_in_key
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.room import SLICE_ENTRIES
from kvtide_cachenode.store.ssd import SsdLog, Stored, Tasks
from kvtide_cachenode.store.store import Store

# So much of the tier is kept free, spare or on its way to the SSD: enough for a request of many blocks.
SPARE_SHARE: Final = 1 / 8
WRITES_UNDER_WAY: Final = 16
# Entries looked at by one call; the rest waits for the next.
STAGED_AT_ONCE: Final = 64
# A shrink waits so long for what is being written; after that the rest goes unwritten.
DEMOTE_S: Final = 3.0
RESIDUAL_GROUP: Final = 0


@dataclass(slots=True)
class Movement:
    """What moved between the tiers since the start, in entries and bytes."""

    demoted: int = 0
    demoted_bytes: int = 0
    demotions_dropped: int = 0
    demotions_refused: int = 0
    demotions_not_admitted: int = 0
    demotions_known: int = 0
    promoted: int = 0
    promoted_bytes: int = 0
    streamed: int = 0
    streamed_bytes: int = 0


def group_of_root(root: bytes) -> int:
    """The log's number for the TTL group of a subtree."""
    return crc32(root) or 1


def group_of(key: bytes) -> int:
    """The TTL group of a key; keys that name no subtree share one."""
    root = root_in_key(key)
    return RESIDUAL_GROUP if root is None else group_of_root(root)


class DemotingStore(Store):
    """A `Store` whose evictions are written to ``log``. ``clock`` counts seconds from anywhere."""

    def __init__(
        self,
        capacity_bytes: int,
        max_bytes: int,
        policy: Policy[bytes],
        log: SsdLog,
        writes: SsdWrites,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(capacity_bytes, max_bytes, policy)
        self.log = log
        self.lower = {"ssd": log}
        self._use(Index(policy, log.rows))
        for key in log.rows:
            self._index.keys.add(key)
        log.watch(lambda key: self._index.appeared_below(key), lambda key: self._index.vanished_below(key))
        self.movement = Movement()
        self._writes = writes
        self._clock = clock
        self._spare: dict[bytes, Entry] = {}
        self._spare_bytes = 0
        self._writing: set[Entry] = set()
        self._writing_bytes = 0
        self._tasks = Tasks()
        self._drop_from_s = 0.0
        self._closing = False
        self._limit_log()
        self._charge_log()

    @property
    def trouble(self) -> str | None:
        """See `Store.trouble`."""
        return self.log.trouble

    def set_capacity(self, capacity_bytes: int) -> None:
        """See `Store.set_capacity`; a shrink writes what it evicts for as long as `DEMOTE_S`."""
        self._drop_from_s = self._clock() + DEMOTE_S
        super().set_capacity(capacity_bytes)
        self._limit_log()

    def counted(self) -> dict[str, int]:
        """What happened since the start."""
        return super().counted() | asdict(self.movement)

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        super().check()
        assert self._spare_bytes == sum(entry.charge for entry in self._spare.values()), "spare bytes differ"
        assert self._writing_bytes == sum(entry.charge for entry in self._writing), "bytes in writing differ"
        for key, entry in self._spare.items():
            assert entry.leaving, "the policy holds a spare entry"
            assert entry.live, "a removed entry is spare"
            assert entry.key == key, "an entry is spare under another key"
        self.log.check()

    def _stage(self) -> None:
        """Have enough of DRAM free, spare, or on its way there."""
        wanted = self.capacity_bytes * SPARE_SHARE
        ready = self.capacity_bytes - self.used_bytes + self._spare_bytes + self._writing_bytes
        for _ in range(STAGED_AT_ONCE):
            if ready >= wanted or len(self._writing) >= WRITES_UNDER_WAY or self._closing:
                return
            if self._writing_bytes > self.capacity_bytes - self._held_bytes:
                return  # where replies and values on their way hold most of the tier, the rest can be evicted
            entry = self._index.let_go()
            if entry is None:
                return
            ready += entry.charge
            if entry in self._writing:
                continue
            if self._is_worth_writing(entry):
                self._start_write(entry)
            else:
                self._add_spare(entry)

    def _is_worth_writing(self, entry: Entry) -> bool:
        """Whether the SSD shall get a copy; one that is there already is used again."""
        if self.log.touch(entry.key):
            self.movement.demotions_known += 1
            return False
        if not is_written(self._writes, entry.worth):
            self.movement.demotions_not_admitted += 1
            return False
        return True

    def _start_write(self, entry: Entry) -> None:
        self._writing.add(entry)
        self._writing_bytes += entry.charge
        self._tasks.start(self._write(entry, self.pin(entry)))

    async def _write(self, entry: Entry, value: memoryview) -> None:
        try:
            if self._index.find(entry.key) is entry:
                result = await self.log.put(entry.key, value, group_of(entry.key))
                if isinstance(result, Stored):
                    self.movement.demoted += 1
                    self.movement.demoted_bytes += entry.length
                else:
                    self.movement.demotions_refused += 1
        finally:
            self._writing.discard(entry)
            self._writing_bytes -= entry.charge
            self.unpin(entry)
            if entry.leaving and self._index.find(entry.key) is entry:
                self._add_spare(entry)
            self._charge_log()
            self._stage()

    def _add_spare(self, entry: Entry) -> None:
        self._spare[entry.key] = entry
        self._spare_bytes += entry.charge

    def _take_back(self, entry: Entry) -> None:
        """An entry that was leaving is used again: it stays."""
        if self._spare.pop(entry.key, None) is not None:
            self._spare_bytes -= entry.charge
        self._index.keep(entry)

    def clear(self) -> None:
        """See `Store.clear`; what is on its way to the SSD is not kept there."""
        super().clear()
        self._spare = {}
        self._spare_bytes = 0
        self.log.forget_all()
        self._use(Index(self._index.policy, self.log.rows))

    def free_flushed(self) -> bool:
        """See `Store.free_flushed`."""
        in_log = self.log.free_forgotten(SLICE_ENTRIES)
        return super().free_flushed() or in_log

    def _evict(self) -> bool:
        spare = None if self._flushed else next(iter(self._spare.values()), None)
        if spare is not None:
            self.log.touch(spare.key)  # idle from now on, not from when it was written
            self._index.remove(spare.key)
            self._count_eviction(spare)
            self._retire(spare)
            return True
        key = None if self._flushed else self._index.victim()
        if key is not None and not self.log.contains(key):
            self.movement.demotions_dropped += 1
        return super()._evict()

    def _may_evict(self) -> bool:
        """A shrink waits for the writes under way, in due time, rather than to lose entries."""
        self._stage()
        return bool(self._spare) or not self._writing or self._clock() >= self._drop_from_s

    def _retire(self, entry: Entry) -> None:
        if entry.leaving and self._spare.get(entry.key) is entry:
            del self._spare[entry.key]
            self._spare_bytes -= entry.charge
        super()._retire(entry)

    def _limit_log(self) -> None:
        """The SSD's index is memory, too."""
        self.log.limit_index(int(LOG_INDEX_SHARE * self.capacity_bytes))

    def _charge_log(self) -> None:
        self.charge_beside("ssd index", self.log.index_bytes)
