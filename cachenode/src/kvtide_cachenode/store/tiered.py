"""Two tiers: what DRAM let go of is found on the SSD, and what is read from there comes back.

A key that is written again or deleted has no copy below from that moment on, and none after a restart once
the client was told.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kvtide_cachenode.placement import History, Policy, SsdWrites
from kvtide_cachenode.placement.ssd_writes import REUSED, TOUCHED_TWICE
from kvtide_cachenode.store.arena import extent_bytes
from kvtide_cachenode.store.decoded_stream import DecodedStream
from kvtide_cachenode.store.demotion import WRITES_UNDER_WAY, DemotingStore, group_of_root
from kvtide_cachenode.store.index import Entry, Index
from kvtide_cachenode.store.reservation import CapacityError, Reservation
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES
from kvtide_cachenode.store.ssd import Missed, SsdLog
from kvtide_cachenode.store.store import INLINE_BYTES

# An entry larger than this part of DRAM would displace too much: it is streamed from the SSD.
PROMOTED_SHARE: Final = 1 / 8
# A value may be evicted again between its arrival and the reply; so often it is fetched.
FETCH_TRIES: Final = 3


@dataclass(slots=True, eq=False)
class _Reading:
    """A promotion under way; all who want the key wait for it."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = False
    lacked_room: bool = False


class TieredStore(DemotingStore):
    """A `Store` with an SSD tier below.

    `get`, `peek` and `pin` know DRAM; ``exists``, `delete`, `clear` and `scan` both tiers; `fetch` brings a
    key that is `below` up.
    """

    def __init__(
        self,
        capacity_bytes: int,
        max_bytes: int,
        policy: Policy[bytes],
        log: SsdLog,
        writes: SsdWrites = "always",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(capacity_bytes, max_bytes, policy, log, writes, clock)
        self._history = History()
        self._reading: dict[bytes, _Reading] = {}

    def _use(self, index: Index) -> None:
        super()._use(index)
        self.exists = self._exists

    def get(self, key: bytes) -> Entry | None:
        """The entry of a key in DRAM, now the most recently used, or None; it may be `below` then."""
        entry = self._index.find(key)
        if entry is None:
            if not self.log.contains(key):
                self.counters.get_misses += 1
            return None
        if entry.leaving:
            self._take_back(entry)
        else:
            self._index.touched(key)
        entry.worth = REUSED | TOUCHED_TWICE
        self.counters.get_hits += 1
        self.counters.read_bytes += entry.length
        return entry

    def touch(self, key: bytes) -> bool:
        """See `Store.touch`."""
        entry = self._index.find(key)
        if entry is None:
            return self.log.contains(key)
        if entry.leaving:
            self._take_back(entry)
        else:
            self._index.touched(key)
        return True

    def get_all(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """See `Store.get_all`."""
        return list(map(self.get, keys))

    def below(self, key: bytes) -> bool:
        """Whether a key is on the SSD and not in DRAM."""
        return self.log.contains(key) and key not in self._index

    def all_here(self, keys: Iterable[bytes]) -> bool:
        """See `Store.all_here`."""
        return not any(map(self.below, keys))

    def length_of(self, key: bytes) -> int | None:
        """Bytes of a key's value in whichever tier, None when there is none."""
        length = super().length_of(key)
        return self.log.size_of(key) if length is None else length

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """See `Store.scan`."""
        cursor, page = super().scan(cursor, count)
        return cursor, list(filter(self._exists, page))

    def pages(self) -> Iterator[list[bytes]]:
        """See `Store.pages`."""
        return (list(filter(self._exists, page)) for page in super().pages())

    async def fetch(self, key: bytes) -> Entry | None:
        """See `Store.fetch`."""
        for _ in range(FETCH_TRIES):
            if key in self._index:
                return self.get(key)
            length = self.log.size_of(key)
            if length is None:
                break
            reading = self._reading.get(key)
            if reading is None:
                reading = self._start_read(key, length)
            await reading.done.wait()
            if reading.missed:
                break
            if reading.lacked_room:
                raise CapacityError(f"no room in DRAM for a value of {length} bytes")
        else:
            if key in self._index:  # the last try brought it
                return self.get(key)
            if self.below(key):
                raise CapacityError("values leave DRAM as soon as they come: it has no room to speak of")
        self.counters.get_misses += 1
        return None

    def read_ahead(self, keys: Iterable[bytes]) -> None:
        """Begin to bring up keys that are below and will be fetched soon."""
        for key in keys:
            length = self.log.size_of(key)
            if length is None or key in self._index or key in self._reading:
                continue
            with contextlib.suppress(CapacityError):
                self._start_read(key, length)

    def stream(self, key: bytes) -> DecodedStream:
        """See `Store.stream`."""
        return DecodedStream(self.log.stream(key), partial(self.reserve_whole, key), self.abort)

    def streamed(self, length: int | None) -> None:
        """See `Store.streamed`."""
        if length is None:
            self.counters.get_misses += 1
            return
        self.counters.get_hits += 1
        self.counters.read_bytes += length
        self.movement.streamed += 1
        self.movement.streamed_bytes += length

    def put(self, key: bytes, value: bytes) -> None:
        """See `Store.put`; a copy on the SSD is gone then."""
        worth = self._worth_of(key)
        super().put(self.log.own(key), value)
        self._written(key, worth)

    def commit(self, key: bytes, reservation: Reservation) -> None:
        """See `Store.commit`; a copy on the SSD is gone then."""
        worth = self._worth_of(key)
        super().commit(self.log.own(key), reservation)
        self._written(key, worth)

    def delete(self, key: bytes) -> bool:
        """Remove a key from both tiers; whether it was there."""
        below = self.log.contains(key)
        in_dram = super().delete(key)
        self._forget_below(key)
        self.counters.deletes += below and not in_dram
        return in_dram or below

    def clear(self) -> None:
        """See `Store.clear`: both tiers, for good once they are settled."""
        super().clear()
        self._reading.clear()
        self.unsettled = True

    async def settle(self) -> None:
        """See `Store.settle`."""
        self.unsettled = False
        await self.log.flush()

    def set_ttl(self, ttl_s: Mapping[str, float], other_ttl_s: float) -> None:
        """See `Store.set_ttl`."""
        self.log.set_ttl({group_of_root(root.encode()): ttl for root, ttl in ttl_s.items()}, other_ttl_s)

    async def maintain(self) -> None:
        """What has to be done about once a second."""
        await super().maintain()
        await self.log.maintain()
        self._charge_log()
        self._stage()

    async def close(self, demote_s: float) -> None:
        """Write what is worth it, the hottest first, for at most ``demote_s``; then the log's snapshot."""
        self._closing = True
        until_s = self._clock() + demote_s
        hottest = (self._index.find(key) for page in self._index.hottest() for key in page)
        for entry in hottest:
            if entry is None or entry in self._writing:
                continue
            while len(self._writing) >= WRITES_UNDER_WAY and self._clock() < until_s:
                await asyncio.sleep(0.001)
            if self._clock() >= until_s:
                break
            if entry.live and self._is_worth_writing(entry):
                self._start_write(entry)
        await self._tasks.settle(max(until_s - self._clock(), 0.1))
        await self.log.close()

    def _exists(self, key: bytes) -> bool:
        return key in self._index or self.log.contains(key)

    def _worth_of(self, key: bytes) -> int:
        if key in self._index:
            return REUSED | TOUCHED_TWICE
        return TOUCHED_TWICE if self._history.seen(key) else 0

    def _written(self, key: bytes, worth: int) -> None:
        entry = self._index.find(key)
        if entry is not None:
            entry.worth = worth
        self._forget_below(key)
        self._stage()

    def _forget_below(self, key: bytes) -> None:
        """The SSD's value of a key is old; so is what is being read or written of it."""
        self._reading.pop(key, None)
        if self.log.forget(key):
            self.unsettled = True

    def _target(self, key: bytes, length: int) -> Reservation | bytearray:
        """Where a value from the SSD arrives; it takes the place of no entry that only DRAM has."""
        if length <= INLINE_BYTES:
            return bytearray(length)
        charge = extent_bytes(length) + len(key) + ENTRY_OVERHEAD_BYTES
        if charge > PROMOTED_SHARE * self.capacity_bytes:
            raise CapacityError(f"a value of {length} bytes is not worth its room in DRAM")
        if charge > self.capacity_bytes - self.used_bytes + self._spare_bytes:
            raise CapacityError(f"no room in DRAM for a value of {length} bytes is free or spare")
        return self.reserve_whole(key, length)

    def _start_read(self, key: bytes, length: int) -> "_Reading":
        target = self._target(key, length)
        reading = self._reading[key] = _Reading()
        self._tasks.start(self._read(key, target, reading))
        return reading

    async def _read(self, key: bytes, target: Reservation | bytearray, reading: "_Reading") -> None:
        """Promote one entry, unless its key is written or deleted meanwhile."""
        memory = target.memory if isinstance(target, Reservation) else memoryview(target)
        result: int | Missed | None = None
        try:
            result = await self.log.get_into(key, memory)
        finally:
            current = self._reading.get(key) is reading
            if current:
                del self._reading[key]
            if current and result == len(memory):
                reading.lacked_room = not self._promote(key, target)
            elif isinstance(target, Reservation):
                self._give_up(target, result)
            reading.missed = isinstance(result, Missed)
            reading.done.set()

    def _promote(self, key: bytes, target: Reservation | bytearray) -> bool:
        """Put a value that was read into DRAM; False where there is no room."""
        if isinstance(target, Reservation):
            super().commit(self.log.own(key), target)
            length = len(target.memory)
        else:
            length = len(target)
            try:
                super().put(self.log.own(key), bytes(target))
            except CapacityError:
                return False
        self.counters.sets -= 1  # no client stored it
        self.counters.written_bytes -= length
        self.movement.promoted += 1
        self.movement.promoted_bytes += length
        entry = self._index.find(key)
        if entry is not None:
            entry.worth = TOUCHED_TWICE
        self._stage()
        return True

    def _give_up(self, target: Reservation, result: "int | Missed | None") -> None:
        if isinstance(result, Missed) and result.settled is not None:
            result.settled.add_done_callback(lambda _: self.abort(target))  # the device still writes there
        else:
            self.abort(target)
