"""From a simulator to a plan: search, choice, coupled re-run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvtide_operator.plan.explorer import Progress, no_progress
from kvtide_operator.plan.hypervolume import Bounds, Hypervolume
from kvtide_operator.plan.outcome import Candidate, Outcome
from kvtide_operator.plan.pareto import frontier
from kvtide_operator.plan.search import Search, run_search
from kvtide_operator.plan.selector import Constraints, Prefer, Selection, select
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.workers import Workers
from kvtide_operator.simulate.configuration import Configuration

MAX_COUPLED_RUNS = 8
"""Points re-run at most. One that breaks a constraint, or loses to another point, moves the choice to the
next best; at the limit the best of those re-run is taken."""


class Simulator(Protocol):
    """The two ways to simulate one trace; `simulate.evaluator.Evaluator` is one."""

    def evaluate(self, configuration: Configuration, /) -> Outcome:
        """The fast way, in two stages."""

    def coupled(self, configuration: Configuration, /) -> Outcome:
        """The reference, in which timing decides what is cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to look for.

    Attributes:
        search: the algorithm with its options.
        constraints: what the chosen point must keep.
        prefer: the objective among the points that do.
        baseline: what the plan is compared with.
    """

    search: Search
    constraints: Constraints
    prefer: Prefer
    baseline: Configuration


@dataclass(frozen=True, slots=True)
class TracePlan:
    """A plan for a trace.

    Attributes:
        frontier: non-dominated points, cheapest first; a point that was re-run is as the coupled simulator
            sees it, so that a configuration never has two sets of figures.
        coupled: the configurations that were re-run.
        selection: the chosen point, as the coupled simulator sees it, and why.
        baseline: the point compared with, coupled as well.
        evaluations: configurations the search evaluated.
        hypervolume: of what the search found.
        complete: whether the search ended by itself rather than by its limit.
    """

    frontier: tuple[Candidate, ...]
    coupled: frozenset[Configuration]
    selection: Selection
    baseline: Candidate
    evaluations: int
    hypervolume: Hypervolume
    complete: bool


def plan_trace(
    simulator: Simulator,
    space: SearchSpace,
    bounds: Bounds,
    options: PlanOptions,
    workers: Workers,
    on_progress: Progress = no_progress,
) -> TracePlan:
    """Search ``space``, choose, and confirm the choice with the coupled simulator.

    Args:
        simulator: of the trace; ``workers`` evaluate with the same.
        space: what may be chosen.
        bounds: the scale of the objectives.
        options: what to look for.
        workers: where the search's evaluations run.
        on_progress: told of every finished batch.
    """
    found = run_search(options.search, space, bounds, workers, on_progress)
    baseline = Candidate(options.baseline, simulator.coupled(options.baseline))
    selection, coupled = _confirmed(found.candidates, simulator, options)
    coupled[baseline.configuration] = baseline
    searched = {candidate.configuration: candidate for candidate in found.candidates}
    return TracePlan(
        frontier=frontier(
            [coupled.get(configuration, candidate) for configuration, candidate in searched.items()]
        ),
        coupled=frozenset(coupled),
        selection=selection,
        baseline=baseline,
        evaluations=len(found.candidates),
        hypervolume=found.hypervolume,
        complete=found.complete,
    )


def _confirmed(
    candidates: Sequence[Candidate], simulator: Simulator, options: PlanOptions
) -> tuple[Selection, dict[Configuration, Candidate]]:
    """The selection once its point is known from a coupled run, and all that were re-run."""
    pool = {candidate.configuration: candidate for candidate in candidates}
    coupled: dict[Configuration, Candidate] = {}
    while len(coupled) < MAX_COUPLED_RUNS:
        selection = select(tuple(pool.values()), options.constraints, options.prefer)
        chosen = selection.chosen.configuration
        if chosen in coupled:
            return selection, coupled
        pool[chosen] = coupled[chosen] = Candidate(chosen, simulator.coupled(chosen))
    return select(tuple(coupled.values()), options.constraints, options.prefer), coupled
