"""Hit ratio as a function of capacity."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class HitCurve:
    """Prefix hit ratio (blocks hit / blocks requested) of an LRU cache as a step function of its capacity.

    Attributes:
        capacity_blocks: int64[breakpoints], rising, the capacities at which the hit ratio rises.
        hit_ratio: float64[breakpoints], the hit ratio from each of them on.
    """

    capacity_blocks: NDArray[np.int64]
    hit_ratio: NDArray[np.float64]

    def hit_ratio_at(self, capacity_blocks: float) -> float:
        """The hit ratio of a cache with room for this many blocks."""
        reached = int(np.searchsorted(self.capacity_blocks, capacity_blocks, side="right"))
        return float(self.hit_ratio[reached - 1]) if reached else 0.0

    @property
    def hit_ratio_infinite(self) -> float:
        """The hit ratio of a cache with room for every block."""
        return self.hit_ratio_at(np.inf)

    def thinned(self, breakpoints: int) -> Self:
        """The same curve at no more than this many of its breakpoints, the first and the last among them."""
        if len(self.capacity_blocks) <= breakpoints:
            return self
        kept = np.linspace(0, len(self.capacity_blocks) - 1, breakpoints).astype(np.int64)
        return type(self)(self.capacity_blocks[kept], self.hit_ratio[kept])

    def distance(self, other: Self) -> float:
        """The largest difference of the two hit ratios at any capacity."""
        capacities = np.union1d(self.capacity_blocks, other.capacity_blocks)
        return float(np.abs(self._at(capacities) - other._at(capacities)).max(initial=0.0))

    def _at(self, capacities: NDArray[np.int64]) -> NDArray[np.float64]:
        reached = np.searchsorted(self.capacity_blocks, capacities, side="right")
        return np.concatenate(([0.0], self.hit_ratio))[reached]
