"""From a simulator to a plan: search, choice, coupled re-run, TTL groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.configuration import Configuration

from .explorer import Progress, no_progress
from .group_ttl import Tuning, curves_of, tune
from .hypervolume import Bounds, Hypervolume
from .miss_stream import MissStream
from .outcome import Candidate, Outcome
from .search import Search, run_search
from .selector import Constraints, Prefer, Selection, select
from .space import SearchSpace
from .workers import Workers

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
        frontier: non-dominated points, cheapest first.
        selection: the chosen point, as the coupled simulator sees it, and why.
        baseline: the point compared with, coupled as well.
        evaluations: configurations the search evaluated.
        hypervolume: of what the search found.
        complete: whether the search ended by itself rather than by its limit.
    """

    frontier: tuple[Candidate, ...]
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
    return TracePlan(
        frontier=found.frontier,
        selection=_confirmed(found.candidates, simulator, options),
        baseline=Candidate(options.baseline, simulator.coupled(options.baseline)),
        evaluations=len(found.candidates),
        hypervolume=found.hypervolume,
        complete=found.complete,
    )


def _confirmed(candidates: Sequence[Candidate], simulator: Simulator, options: PlanOptions) -> Selection:
    """The selection once its point is known from a coupled run."""
    pool = {candidate.configuration: candidate for candidate in candidates}
    coupled: dict[Configuration, Candidate] = {}
    while len(coupled) < MAX_COUPLED_RUNS:
        selection = select(tuple(pool.values()), options.constraints, options.prefer)
        chosen = selection.chosen.configuration
        if chosen in coupled:
            return selection
        pool[chosen] = coupled[chosen] = Candidate(chosen, simulator.coupled(chosen))
    return select(tuple(coupled.values()), options.constraints, options.prefer)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A chosen point with its TTL spread over groups of blocks.

    Attributes:
        tuning: what the tuner found for the block-seconds that the uniform TTL takes.
        selection: the better of both, by the same constraints and objective, re-simulated coupled.
        adopted: whether that is the one with groups.
    """

    tuning: Tuning
    selection: Selection
    adopted: bool


def plan_groups(
    plan: TracePlan,
    stream: MissStream,
    block_group: NDArray[np.int8],
    simulator_of: Callable[[NDArray[np.int8]], Simulator],
    ttl_max_s: float,
    options: PlanOptions,
    seed: int,
) -> GroupPlan | None:
    """Tune a TTL per group at the budget of the chosen uniform TTL; None where that keeps nothing on SSD.

    Args:
        plan: the plan to refine.
        stream: the misses at the chosen DRAM size.
        block_group: int8[unique blocks], the group of each block.
        simulator_of: the simulator of the same trace with these groups.
        ttl_max_s: the longest TTL.
        options: those of the plan.
        seed: of the tuner's starts.
    """
    uniform = plan.selection.chosen
    lifetime_s = uniform.configuration.ttl_s
    if uniform.configuration.tier_class is None or isinstance(lifetime_s, tuple):
        return None
    groups = int(block_group.max(initial=0)) + 1
    curves = curves_of(stream, block_group[stream.block], groups)
    budget = float(sum(curve.block_seconds(lifetime_s) for curve in curves))
    tuning = tune(curves, budget, ttl_max_s, seed)
    grouped = replace(uniform.configuration, ttl_s=tuning.best.ttl_s)
    both = (uniform, Candidate(grouped, simulator_of(block_group).coupled(grouped)))
    selection = select(both, options.constraints, options.prefer)
    return GroupPlan(tuning, selection, selection.chosen.configuration == grouped)
