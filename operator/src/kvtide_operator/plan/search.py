"""The searches by name, and the one way to run them."""

from dataclasses import dataclass
from typing import Final, Protocol

from kvtide_operator.plan.explorer import BudgetSpentError, Explorer, Progress, no_progress
from kvtide_operator.plan.grid import Grid
from kvtide_operator.plan.hypervolume import Bounds, Hypervolume, hypervolume
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.kareto_paper import KaretoPaper
from kvtide_operator.plan.nsga2 import Nsga2
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.pareto import frontier
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.workers import Workers


class Search(Protocol):
    """An algorithm: a frozen dataclass of its options."""

    def limit(self, space: SearchSpace) -> int:
        """The most evaluations it may take in ``space``."""

    def explore(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:
        """Evaluate what it finds worth it; may end in the explorer's `BudgetSpentError`."""


SEARCHES: Final[dict[str, type[Kareto] | type[KaretoPaper] | type[Grid] | type[Nsga2]]] = {
    "kareto": Kareto,
    "kareto-paper": KaretoPaper,
    "grid": Grid,
    "nsga2": Nsga2,
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        candidates: everything evaluated, in the order it was asked for.
        frontier: the non-dominated of them, cheapest first.
        hypervolume: of the frontier.
        complete: whether the search ended by itself; otherwise its limit on evaluations ended it.
    """

    candidates: tuple[Candidate, ...]
    frontier: tuple[Candidate, ...]
    hypervolume: Hypervolume
    complete: bool


def run_search(
    search: Search,
    space: SearchSpace,
    bounds: Bounds,
    workers: Workers,
    on_progress: Progress = no_progress,
) -> Found:
    """Search ``space``; the same inputs give the same result on any number of workers."""
    explorer = Explorer(workers, search.limit(space), on_progress)
    complete = True
    try:
        search.explore(explorer, space, bounds)
    except BudgetSpentError:
        complete = False
    candidates = explorer.candidates
    return Found(candidates, frontier(candidates), hypervolume(candidates, bounds), complete)
