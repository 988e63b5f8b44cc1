"""All keys of a node, whichever tier has them, in an order that nothing moves: by hash.

So an iteration needs no memory of its own: its cursor is a place in the order, and a key that stays is met
however many others come, go or change tiers meanwhile. A table of buckets by the hash's leading bits
(extendible hashing, Fagin et al. 1979): a full bucket is split, which is all that growing ever does at once,
apart from copying a list of pointers.
"""

from collections.abc import Iterator
from typing import Final

# A removal looks through its bucket: some hundred nanoseconds at this size.
BUCKET_KEYS: Final = 16
HASH_BITS: Final = 64
# Cursors are small enough for clients that keep them in a float.
CURSOR_BITS: Final = 48
# One call looks at most at so many buckets for each key that it was asked for.
BUCKETS_PER_KEY: Final = 10
# Keys of one page of a walk through all: about a millisecond for whoever looks at each.
PAGE_KEYS: Final = 1000


class _Bucket(list[bytes]):
    """Keys whose hashes begin with the same ``depth`` bits."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth


class Keys:
    """A set of keys; whoever adds knows that a key is not there, whoever removes that it is."""

    def __init__(self) -> None:
        # By the leading bits of a hash. Hashes are signed: the negative half counts from the table's end.
        self._table = [_Bucket(0)]
        self._depth = 0
        self._shift = HASH_BITS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        bucket = self._table[hash(key) >> self._shift]
        bucket.append(key)
        self._count += 1
        if len(bucket) > BUCKET_KEYS:
            self._split(bucket, key)

    def remove(self, key: bytes) -> None:
        """Remove a key that is there."""
        bucket = self._table[hash(key) >> self._shift]
        bucket.remove(key)
        self._count -= 1
        if not bucket and bucket.depth:
            self._merge(bucket, key)

    def page(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About ``count`` keys from a place on, 0 being the first, and the place to go on from, 0 at the end.

        Every key that is there from the first call to the last is met at least once.
        """
        table, depth = self._table, self._depth
        found: list[bytes] = []
        if not table:  # all was dropped
            return 0, found
        at = self._place(cursor)
        for _ in range(BUCKETS_PER_KEY * count):
            bucket = table[at]
            found += bucket
            span = 1 << (depth - bucket.depth)
            at = (at // span + 1) * span
            if at >= len(table):
                return 0, found
            if len(found) >= count:
                break
        return at << CURSOR_BITS >> depth, found

    def pages(self, count: int = PAGE_KEYS) -> Iterator[list[bytes]]:
        """All keys in pages of about ``count``; between two of them anything may change."""
        cursor, page = self.page(0, count)
        yield page
        while cursor:
            cursor, page = self.page(cursor, count)
            yield page

    def drop(self, buckets: int) -> bool:
        """Free some of a set that nobody uses any more; whether there is more."""
        del self._table[-buckets:]
        return bool(self._table)

    def check(self) -> None:
        """Recompute the books; an AssertionError is a defect of this class."""
        assert len(self._table) == 1 << self._depth == 1 << (HASH_BITS - self._shift), (
            "the table's size is wrong"
        )
        seen = 0
        for at in range(len(self._table)):
            bucket = self._table[at]
            span = 1 << (self._depth - bucket.depth)
            assert bucket is self._table[at // span * span], "a bucket is missing where its hashes lead"
            if at % span == 0:
                seen += len(bucket)
                for key in bucket:
                    assert self._table[hash(key) >> self._shift] is bucket, "a key is in a wrong bucket"
        assert seen == self._count, "the keys are not as many as counted"

    def _place(self, cursor: int) -> int:
        return min(cursor << self._depth >> CURSOR_BITS, len(self._table) - 1)

    def _slots(self, key: bytes, depth: int) -> range:
        """Places in the table of the hashes that begin as the key's in ``depth`` bits."""
        span = 1 << (self._depth - depth)
        first = (hash(key) >> self._shift) % len(self._table) // span * span
        return range(first, first + span)

    def _split(self, full: _Bucket, key: bytes) -> None:
        if full.depth == self._depth:
            if self._depth == CURSOR_BITS:
                return
            self._table = [bucket for bucket in self._table for _ in range(2)]
            self._depth += 1
            self._shift -= 1
        slots = self._slots(key, full.depth)
        low, high = _Bucket(full.depth + 1), _Bucket(full.depth + 1)
        bit = 1 << (HASH_BITS - 1 - full.depth)
        for held in full:
            (high if hash(held) & bit else low).append(held)
        half = len(slots) // 2
        self._table[slots.start : slots.stop] = [low] * half + [high] * half

    def _merge(self, empty: _Bucket, key: bytes) -> None:
        """Give an empty bucket's hashes to its neighbour, with which it once was one."""
        own, both = self._slots(key, empty.depth), self._slots(key, empty.depth - 1)
        neighbour = self._table[both.start if own.start != both.start else own.stop]
        if neighbour.depth == empty.depth:
            neighbour.depth -= 1
            self._table[own.start : own.stop] = [neighbour] * len(own)
