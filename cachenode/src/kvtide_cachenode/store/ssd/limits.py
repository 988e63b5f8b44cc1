"""What bounds the log: queues and waits, how long entries are kept, how much of the disk may be used."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvtide_cachenode.contract.sizing import SSD_ENTRY_BYTES
from kvtide_cachenode.store.ssd.index import LogIndex
from kvtide_cachenode.store.ssd.space import Segments, segment_bytes

# Of memory; at the limit, a million entries with ordinary keys, the oldest segments make way, as at the cap.
MAX_INDEX_BYTES = SSD_ENTRY_BYTES << 20
# Entries looked at between two turns of the loop: a millisecond or two.
SLICE_ENTRIES = 2048
# After this time a disk that was found full is tried again.
FULL_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the log's queues and waits; at each of them a put is refused and a read is a miss."""

    read_threads: int = 4
    write_threads: int = 4
    reads_waiting: int = 256
    writes_waiting: int = 64
    writes_waiting_bytes: int = 256 << 20
    read_deadline_s: float = 2.0
    write_deadline_s: float = 10.0
    close_deadline_s: float = 10.0


class Retention:
    """Idle time-outs by group: an entry expires at its last use (put or hit) + its group's TTL, in seconds.

    The table may be replaced at any time and holds for entries that are there already. 0 keeps nothing,
    infinity keeps until the space is needed.
    """

    def __init__(self, index: LogIndex, clock: Callable[[], float]) -> None:
        self._index = index
        self._clock = clock
        self._ttl_s: dict[int, float] = {}
        self._other_ttl_s = math.inf

    def set(self, ttl_s: Mapping[int, float], other_ttl_s: float) -> None:
        """Replace the table; ``other_ttl_s`` is for groups that are not in it."""
        assert all(ttl >= 0 for ttl in (*ttl_s.values(), other_ttl_s)), "a TTL is not negative"
        self._ttl_s = dict(ttl_s)
        self._other_ttl_s = other_ttl_s

    def ttl_s(self, group: int) -> float:
        """The TTL of a group."""
        return self._ttl_s.get(group, self._other_ttl_s)

    def fresh(self, row: int) -> bool:
        """Whether an entry has not expired."""
        index = self._index
        return self._clock() < index.used_at_s[row] + self.ttl_s(index.group[row])

    def touch(self, row: int) -> None:
        """An entry was used."""
        self._index.used_at_s[row] = self._clock()


class Capacity:
    """The cap, and what puts may use of it.

    Puts leave one segment free, into which cleaning moves what it keeps, and the room for writing a snapshot
    beside the last one; so nothing ever takes more than the cap. On a disk that is fuller than the cap, what
    fitted is the cap for a while.
    """

    def __init__(self, cap_bytes: int, segments: Segments, clock: Callable[[], float]) -> None:
        self.cap_bytes = cap_bytes
        self.snapshot_bytes = 0
        self.max_index_bytes = MAX_INDEX_BYTES
        self._segments = segments
        self._clock = clock
        self._found_bytes = 0
        self._found_until_s = -math.inf

    @property
    def used_bytes(self) -> int:
        """What the disk holds, writes under way included."""
        return self._segments.used_bytes + self.snapshot_bytes

    @property
    def puts_bytes(self) -> int:
        """How far puts may fill the segments; not positive when the cap is too small for anything."""
        cap_bytes = self.cap_bytes
        if self._clock() < self._found_until_s:
            cap_bytes = min(cap_bytes, self._found_bytes)
        return cap_bytes - segment_bytes(self.cap_bytes) - 2 * self.snapshot_bytes

    def room_for(self, size_bytes: int) -> bool:
        """Whether a put may use so much more."""
        return self._segments.used_bytes + size_bytes <= self.puts_bytes

    def disk_full(self) -> None:
        """The disk holds no more than is used now."""
        self._found_bytes = self.used_bytes
        self._found_until_s = self._clock() + FULL_RETRY_S
