"""Free ranges of an address space: best fit, neighbours merged at once."""

from bisect import bisect_left, insort


class FreeRanges:
    """The free parts of ``[0, size_bytes)``.

    Best fit (the smallest range that holds the request, lowest address first) keeps the large remainder
    whole. A search is a bisection; an update moves at most one machine word per free range.
    """

    def __init__(self, size_bytes: int) -> None:
        self._by_size = [(size_bytes, 0)]
        self._length_at = {0: size_bytes}
        self._start_of_end = {size_bytes: 0}

    def take(self, length: int) -> int | None:
        """The start of ``length`` bytes that are no longer free, None when no range is long enough."""
        at = bisect_left(self._by_size, (length, 0))
        if at == len(self._by_size):
            return None
        found, start = self._by_size[at]
        self._drop(start, found)
        if found > length:
            self._add(start + length, found - length)
        return start

    def give(self, start: int, length: int) -> None:
        """Make a taken range free again and merge it with its free neighbours."""
        end = start + length
        after = self._length_at.get(end)
        if after is not None:
            self._drop(end, after)
            length += after
        before = self._start_of_end.get(start)
        if before is not None:
            self._drop(before, start - before)
            length += start - before
            start = before
        self._add(start, length)

    def ranges(self) -> list[tuple[int, int]]:
        """All free ranges as ``(start, length)``, in address order."""
        return sorted(self._length_at.items())

    def _add(self, start: int, length: int) -> None:
        insort(self._by_size, (length, start))
        self._length_at[start] = length
        self._start_of_end[start + length] = start

    def _drop(self, start: int, length: int) -> None:
        del self._by_size[bisect_left(self._by_size, (length, start))]
        del self._length_at[start]
        del self._start_of_end[start + length]
