"""A plan refined: its SSD TTL spread over groups of blocks. Its solver takes a while to import."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.group_ttl import Tuning, curves_of, tune
from kvtide_operator.plan.miss_stream import MissStream
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.selector import Selection, select
from kvtide_operator.plan.trace_plan import PlanOptions, Simulator, TracePlan


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
