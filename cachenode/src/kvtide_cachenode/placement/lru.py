"""Least recently used: the victim is the key whose last insertion or hit is the oldest."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Self, TypeVar

from kvtide_cachenode.placement.policy import PAGE_KEYS

Key = TypeVar("Key", bound=Hashable)


class LeastRecentlyUsed(Generic[Key]):
    """Exact LRU; every operation takes constant time. Sizes do not matter to it."""

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()
        # The bound method itself: a hit costs one call into C.
        self.touched = self._order.move_to_end

    def inserted(self, key: Key, size_bytes: int) -> None:  # noqa: ARG002 - the protocol's signature
        """See `Policy`."""
        self._order[key] = None

    def replaced(self, key: Key, size_bytes: int) -> None:  # noqa: ARG002 - the protocol's signature
        """See `Policy`."""
        self.touched(key)

    def removed(self, key: Key) -> None:
        """See `Policy`."""
        del self._order[key]

    def victim(self) -> Key | None:
        """See `Policy`."""
        return next(iter(self._order), None)

    def hottest(self) -> Iterator[list[Key]]:
        """See `Policy`. Takes a copy of the order: some 30 ms for a million keys."""
        keys = list(reversed(self._order))
        for start in range(0, len(keys), PAGE_KEYS):
            yield keys[start : start + PAGE_KEYS]

    def fresh(self) -> Self:
        """See `Policy`."""
        return type(self)()
