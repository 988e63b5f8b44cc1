"""What keeping a group of blocks for a TTL yields and takes: H_g and C_g of Kareto, section 4.3."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class RetentionCurve:
    """Hits and block-seconds of one group against its TTL, in O(log n) a query.

    Hits count every reuse by itself: without prefix continuity they are more than a cache can serve, so
    they steer the search and are never reported as a hit ratio.

    Attributes:
        hit_gap_s: float64[reuses], ascending: from demotion to reuse.
        hold_s: float64[holds], ascending: how long a copy is held at most, that is without a TTL.
        hold_sum_s: float64[holds + 1], prefix sums of the finite ``hold_s``.
    """

    hit_gap_s: NDArray[np.float64]
    hold_s: NDArray[np.float64]
    hold_sum_s: NDArray[np.float64]

    @classmethod
    def exact(cls, reuse_s: NDArray[np.float64], hold_s: NDArray[np.float64]) -> Self:
        """From the rows of a `MissStream`: a demotion is held for min(t, hold), censored at the horizon."""
        hold = np.sort(hold_s)
        return cls(np.sort(reuse_s[np.isfinite(reuse_s)]), hold, _prefix_sums(hold))

    def hits(self, ttl_s: NDArray[np.float64] | float) -> NDArray[np.int64]:
        """H_g(t): reuses within ``ttl_s``."""
        return np.asarray(np.searchsorted(self.hit_gap_s, ttl_s, side="right"), dtype=np.int64)

    def block_seconds(self, ttl_s: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """C_g(t): what the copies of the group take, in blocks times seconds. Never falls with ``ttl_s``."""
        ttl = np.asarray(ttl_s, dtype=np.float64)
        held = np.searchsorted(self.hold_s, ttl, side="right")
        return np.asarray(self.hold_sum_s[held] + ttl * (len(self.hold_s) - held))

    def breakpoints(self, ttl_max_s: float) -> NDArray[np.float64]:
        """float64: 0 and every TTL up to ``ttl_max_s`` at which hits rise, ascending."""
        gaps = np.unique(self.hit_gap_s[: int(self.hits(ttl_max_s))])
        return np.concatenate([[0.0], gaps[gaps > 0]])

    def envelope(self, ttl_max_s: float) -> NDArray[np.float64]:
        """float64[points]: the breakpoints on the upper concave envelope of (C_g, H_g), ascending, 0 first.

        Only there does a further block-second ever yield the most hits; everything else is dominated by a
        mixture of two of them.
        """
        ttl = self.breakpoints(ttl_max_s)
        return ttl[_upper_hull(self.block_seconds(ttl), self.hits(ttl).astype(np.float64))]


def _prefix_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])


@njit(cache=True)
def _upper_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the upper concave hull of points with x strictly ascending (monotone chain)."""
    hull = np.empty(len(x), dtype=np.int64)
    size = 0
    for i in range(len(x)):
        while size > 1:
            a, b = hull[size - 2], hull[size - 1]
            if (y[b] - y[a]) * (x[i] - x[b]) > (y[i] - y[b]) * (x[b] - x[a]):
                break
            size -= 1
        hull[size] = i
        size += 1
    return hull[:size].copy()
