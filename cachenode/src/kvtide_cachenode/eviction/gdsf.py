"""Greedy dual size frequency with the leaf before the root: size, cost and prefix decide, not recency alone.

An entry's priority is ``clock + uses / size`` (Cherkasova 1998, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", with the cost of a miss the same for every entry: one block to
compute). The clock is the priority of the last victim, so that what is not used any more sinks. A block is
of use only while all blocks before it are there, and it is never asked for without them: its predecessors
have at least its uses, and among equal priorities the deepest block goes first.
"""

from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush, merge
from itertools import islice
from operator import itemgetter
from typing import Final, Generic, Self, TypeVar

from kvtide_cachenode.eviction.depth import depth_in_key
from kvtide_cachenode.eviction.policy import PAGE_KEYS

Key = TypeVar("Key", bound=Hashable)

# Uses beyond this do not make an entry more precious, so that an old favourite sinks in bounded time.
MAX_USES: Final = 64
# Entries are not told apart below this size: keys and metadata cost about as much.
SMALLEST_BYTES: Final = 4096
_SLACK: Final = 64
# Items looked at for each insertion while those of removed keys are sorted out.
_SORTED_OUT: Final = 8


class GreedyDualSizeFrequency(Generic[Key]):
    """``depth_of`` says how far from its root a key's block is, 0 where that is not known.

    A use costs constant time; an eviction logarithmic time, and a little more for every key whose priority
    rose since it was last looked at. An insertion sorts out some items of removed keys, where those are many.
    """

    def __init__(self, depth_of: Callable[[Key], int] = depth_in_key) -> None:
        self._depth_of = depth_of
        self._clock = 0.0
        self._number = 0
        self._held: dict[Key, list[float]] = {}  # number of the insertion, priority, uses, size
        self._heap: list[tuple[float, int, int, Key]] = []  # priority when pushed, -depth, number, key
        self._old_heap = self._heap[:]  # what of it is still to be sorted out
        self._last_victim: Key | None = None

    def inserted(self, key: Key, size_bytes: int) -> None:
        """See `Policy`."""
        self._number += 1
        size = max(size_bytes, SMALLEST_BYTES) / SMALLEST_BYTES
        priority = self._clock + 1 / size
        self._held[key] = [self._number, priority, 1, size]
        heappush(self._heap, (priority, -self._depth_of(key), self._number, key))
        if not self._old_heap and len(self._heap) > 2 * len(self._held) + _SLACK:  # half is of removed keys
            self._old_heap, self._heap = self._heap, self._old_heap
        for _ in range(min(len(self._old_heap), _SORTED_OUT)):
            item = self._old_heap.pop()  # without its last item a heap is one
            if self._current(item):
                heappush(self._heap, item)

    def replaced(self, key: Key, size_bytes: int) -> None:
        """See `Policy`."""
        self.removed(key)
        self.inserted(key, size_bytes)

    def touched(self, key: Key) -> None:
        """See `Policy`."""
        state = self._held[key]
        state[2] = min(state[2] + 1, MAX_USES)
        state[1] = self._clock + state[2] / state[3]

    def removed(self, key: Key) -> None:
        """See `Policy`."""
        state = self._held.pop(key)
        if key == self._last_victim:
            self._clock = max(self._clock, state[1])
            self._last_victim = None

    def victim(self) -> Key | None:
        """See `Policy`."""
        while self._heap or self._old_heap:
            heap = min((heap for heap in (self._heap, self._old_heap) if heap), key=itemgetter(0))
            pushed, depth, number, key = heap[0]
            if not self._current(heap[0]):
                heappop(heap)
                continue
            priority = self._held[key][1]
            if priority == pushed:
                self._last_victim = key
                return key
            heappop(heap)
            heappush(heap, (priority, depth, number, key))
        return None

    def hottest(self) -> Iterator[list[Key]]:
        """See `Policy`. Pages are sorted one by one, then merged."""
        held, depth_of = self._held, self._depth_of
        keys = list(held)
        runs = []
        for start in range(0, len(keys), PAGE_KEYS):
            states = ((key, held.get(key)) for key in keys[start : start + PAGE_KEYS])
            runs.append(
                sorted(
                    (-state[1], depth_of(key), -state[0], key) for key, state in states if state is not None
                )
            )
            yield []
        merged = merge(*runs)
        while page := list(islice(merged, PAGE_KEYS)):
            yield [key for _, _, _, key in page]

    def fresh(self) -> Self:
        """See `Policy`."""
        return type(self)(self._depth_of)

    def _current(self, item: tuple[float, int, int, Key]) -> bool:
        """Whether a heap item is of a key that is held, and of this stay of it."""
        state = self._held.get(item[3])
        return state is not None and state[0] == item[2]
