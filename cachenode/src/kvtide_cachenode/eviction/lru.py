"""Least recently used: the victim is the key whose last insertion or hit is the oldest."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

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

    def removed(self, key: Key) -> None:
        """See `Policy`."""
        del self._order[key]

    def victim(self) -> Key | None:
        """See `Policy`."""
        return next(iter(self._order), None)

    def hottest(self) -> list[Key]:
        """See `Policy`."""
        return list(reversed(self._order))
