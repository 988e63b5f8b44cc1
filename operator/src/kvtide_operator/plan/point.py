"""A point is a configuration with its simulated cost and hit ratio; a plan is the frontier and the choice."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """What one DRAM capacity would cost and yield.

    Attributes:
        dram_bytes: capacity of the tier over all nodes.
        prefix_hit_ratio: blocks hit / blocks requested.
        storage_cost_per_hour: price of the capacity.
        recompute_cost_per_hour: GPU time spent on the blocks that miss.
    """

    dram_bytes: int
    prefix_hit_ratio: float
    storage_cost_per_hour: float
    recompute_cost_per_hour: float

    @property
    def cost_per_hour(self) -> float:
        """Storage and recomputation together: what a size really costs."""
        return self.storage_cost_per_hour + self.recompute_cost_per_hour


@dataclass(frozen=True, slots=True)
class Plan:
    """The frontier in order of capacity, and which of its points to take.

    Attributes:
        frontier: no point has both a lower storage cost and a higher hit ratio than another.
        chosen: the point to move to.
        current: the capacity the cache has now, evaluated on the same workload.
        why: one sentence.
    """

    frontier: tuple[Point, ...]
    chosen: Point
    current: Point
    why: str
