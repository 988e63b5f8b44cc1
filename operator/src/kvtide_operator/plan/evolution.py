"""One run of pymoo's NSGA-II over a search space."""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from kvtide_operator.plan.explorer import Explorer
from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.outcome import Candidate, objectives_of
from kvtide_operator.plan.space import SearchSpace

LATTICE = 64
"""Values of DRAM and of TTL beyond the first, as in our own search."""

FAR = 1e6
"""A scaled objective is at most this: crowding distances need finite numbers."""


def evolve(
    explorer: Explorer, space: SearchSpace, bounds: Bounds, population: int, generations: int, seed: int
) -> None:
    """Evolve integers for DRAM, TTL and SSD class; a generation is one batch for the explorer's workers."""
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(_Tiering(explorer, space, bounds), algorithm, ("n_gen", generations), seed=seed)


class _Tiering(Problem):  # type: ignore[misc]  # pymoo ships no types
    """A population at a time, so that a generation is one batch for the workers."""

    def __init__(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:
        most = np.array([LATTICE, LATTICE, len(space.media) - 1])
        super().__init__(n_var=3, n_obj=3, n_ieq_constr=1, xl=np.zeros(3), xu=most, vtype=int)
        self._explorer = explorer
        self._space = space
        self._bounds = bounds

    def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_: Any, **__: Any) -> None:
        configurations = [
            self._space.configuration(
                Fraction(int(dram), LATTICE), Fraction(int(ttl), LATTICE), self._space.media[int(medium)]
            )
            for dram, ttl, medium in x
        ]
        self._explorer.evaluate(configurations)
        population = [Candidate(c, self._explorer.outcome(c)) for c in configurations]
        out["F"] = np.minimum(self._bounds.scaled(objectives_of(population)), FAR)
        out["G"] = np.array([[0.0 if c.outcome.stable else 1.0] for c in population])
