"""NSGA-II (Deb et al., 2002) through pymoo: the general-purpose yardstick beside Kareto's search."""

from dataclasses import dataclass

from kvtide_operator.plan.explorer import Explorer
from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsga2:
    """NSGA-II over integers: DRAM, TTL and SSD class; an unstable queue violates a constraint.

    Attributes:
        population: individuals of a generation.
        generations: how many there are, the first included; the limit on evaluations may end them earlier.
        seed: of the sampling and the operators.
        max_evaluations: per SSD class.
    """

    population: int = 20
    generations: int = 20
    seed: int = 0
    max_evaluations: int = 200

    def limit(self, space: SearchSpace) -> int:
        """At most this many evaluations."""
        return self.max_evaluations * len(space.media)

    def explore(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:
        """Evolve; repeated individuals are answered from the explorer's memo."""
        # pymoo's algorithms take longer to import than most plans take to make.
        from .evolution import evolve

        evolve(explorer, space, bounds, self.population, self.generations, self.seed)
