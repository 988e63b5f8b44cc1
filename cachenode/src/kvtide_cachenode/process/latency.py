"""Latency histograms that cost a bisection and two additions a record."""

from bisect import bisect_left
from typing import Final

# 1-2.5-5 from 10 µs to 10 s: a DRAM hit takes tens of microseconds, a slow disk's deadline is 2 s.
BOUNDS_S: Final = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3),
    *(1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Histogram:
    """How often something took how long; ``counts[i]`` are those up to ``BOUNDS_S[i]``, the last the rest."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        """Something happened ``times`` times and took ``seconds`` each."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times

    def cumulative(self) -> list[tuple[str, float]]:
        """``(upper bound, records up to it)`` as Prometheus wants them."""
        total, pairs = 0, []
        for bound, count in zip((*map(repr, BOUNDS_S), "+Inf"), self.counts, strict=True):
            total += count
            pairs.append((bound, float(total)))
        return pairs
