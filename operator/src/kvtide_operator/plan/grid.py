"""Exhaustive search over a uniform grid: the yardstick of Kareto's evaluation."""

from dataclasses import dataclass
from fractions import Fraction

from kvtide_operator.plan.explorer import Explorer
from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Every combination of ``dram_points`` sizes and ``ttl_points`` TTLs, per SSD class.

    The defaults are Kareto's (section 5): 0 to 4096 GB in steps of 256, 0 to 3600 s in steps of 120.
    """

    dram_points: int = 17
    ttl_points: int = 31
    max_evaluations: int | None = None

    def limit(self, space: SearchSpace) -> int:
        """The grid's size, unless a smaller limit was set."""
        return self.max_evaluations or self.dram_points * self.ttl_points * len(space.media)

    def explore(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:  # noqa: ARG002
        """Evaluate the whole grid."""
        explorer.evaluate(
            space.configuration(dram, ttl, medium)
            for medium in space.media
            for dram in even(self.dram_points)
            for ttl in even(self.ttl_points)
        )


def even(points: int, until: Fraction = Fraction(1)) -> list[Fraction]:
    """``points`` evenly spaced fractions from 0 to ``until``; 0 alone for a single one."""
    return [until * index / max(points - 1, 1) for index in range(points)]
