"""Least recently used: the victim is the key whose last insertion or hit is the oldest."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Final, Generic, Self, TypeVar

from kvtide_cachenode.placement.policy import PAGE_KEYS

Key = TypeVar("Key", bound=Hashable)

# What changed while keys were listed is put in order so much at once: more than changes meanwhile.
SETTLED_KEYS: Final = 4 * PAGE_KEYS


class LeastRecentlyUsed(Generic[Key]):
    """Exact LRU; every operation takes constant time. Sizes do not matter to it.

    An order that changes cannot be walked through, and a copy of a million keys takes longer than clients may
    wait. So while it is listed it is left alone: beside it stands what is ``gone`` from it, and what came or
    was used ``since``.
    """

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()
        self._since: OrderedDict[Key, None] = OrderedDict()
        self._gone: set[Key] = set()
        self._listing = False
        self._walked = False  # the order must stay as it is
        self._from_coldest: Iterator[Key] = iter(())
        self._coldest: Key | None = None
        self._youngest = self._order  # where a key comes in
        # The bound method itself: a hit costs one call into C.
        self.touched: Callable[[Key], None] = self._order.move_to_end

    def inserted(self, key: Key, size_bytes: int) -> None:  # noqa: ARG002 - the protocol's signature
        """See `Policy`."""
        self._youngest[key] = None

    def replaced(self, key: Key, size_bytes: int) -> None:  # noqa: ARG002 - the protocol's signature
        """See `Policy`."""
        self.touched(key)

    def removed(self, key: Key) -> None:
        """See `Policy`."""
        if key in self._since:
            del self._since[key]
        elif self._walked:
            self._gone.add(key)
        else:
            del self._order[key]

    def victim(self) -> Key | None:
        """See `Policy`."""
        order, gone = self._order, self._gone
        if self._walked:
            while self._coldest in gone:
                self._coldest = next(self._from_coldest, None)
            coldest = self._coldest
        else:
            coldest = next(iter(order), None)
            while coldest in gone:
                gone.remove(coldest)
                del order[coldest]
                coldest = next(iter(order), None)
        return next(iter(self._since), None) if coldest is None else coldest

    def hottest(self) -> Iterator[list[Key]]:
        """See `Policy`."""
        while self._listing:
            yield []
        self._listing = True
        try:
            yield from self._settle()  # after a listing that was given up
            self._walked = True
            self._from_coldest = iter(self._order)
            self._coldest = next(self._from_coldest, None)
            self._youngest, self.touched = self._since, self._touched_beside
            hottest = reversed(self._order)
            gone, since = self._gone, self._since
            while page := list(islice(hottest, PAGE_KEYS)):
                yield [key for key in page if key not in gone or key in since]
            self._walked = False
            yield from self._settle()
        finally:
            self._listing = self._walked = False

    def fresh(self) -> Self:
        """See `Policy`."""
        return type(self)()

    def _touched_beside(self, key: Key) -> None:
        self.removed(key)
        self._since[key] = None

    def _settle(self) -> Iterator[list[Key]]:
        """Put what changed meanwhile in its order again."""
        order, since, gone = self._order, self._since, self._gone
        while gone:
            for _ in range(min(len(gone), SETTLED_KEYS)):
                del order[gone.pop()]
            yield []
        while since:
            for _ in range(min(len(since), SETTLED_KEYS)):
                order[since.popitem(last=False)[0]] = None
            yield []
        self._youngest, self.touched = order, order.move_to_end
