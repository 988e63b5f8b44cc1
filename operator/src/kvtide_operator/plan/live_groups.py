"""TTL groups of a running cache: prefix subtrees by the names that the keys of its entries carry."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.miss_stream import miss_stream
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Goal
from kvtide_operator.plan.trace_plan import PlanOptions, TracePlan
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.workload.trace import Trace

SEED = 0
"""Of the tuner's starts: the same window gives the same groups."""


def popular_roots(trace: Trace, depth: int, most: int) -> tuple[int, ...]:
    """Ids of the blocks at ``depth`` that most requests ask for: each names the subtree below it."""
    lengths = np.diff(trace.block_start)
    at = trace.blocks[trace.block_start[:-1][lengths > depth] + depth]
    popularity = np.bincount(at, minlength=trace.unique_blocks)
    ranked = np.argsort(-popularity, kind="stable")[:most]
    return tuple(int(trace.block_ids[block]) for block in ranked if popularity[block])


def groups_below(trace: Trace, depth: int, roots: Sequence[int]) -> NDArray[np.int8]:
    """int8[unique blocks]: i at and below the block of id ``roots[i]``, ``len(roots)`` for all others.

    Args:
        trace: what the blocks are numbered by.
        depth: of the roots; blocks above it are in no subtree, as their keys say.
        roots: at most 126 ids of blocks.
    """
    rest = len(roots)
    of_id = {block_id: group for group, block_id in enumerate(roots)}
    of_root = np.array([of_id.get(int(block_id), rest) for block_id in trace.block_ids], dtype=np.int8)
    lengths = np.diff(trace.block_start)
    of_request = np.full(trace.requests, rest, dtype=np.int8)
    deep = np.flatnonzero(lengths > depth)
    of_request[deep] = of_root[trace.blocks[trace.block_start[deep] + depth]]
    place_depth = np.arange(len(trace.blocks)) - np.repeat(trace.block_start[:-1], lengths)
    below = place_depth >= depth
    group = np.full(trace.unique_blocks, rest, dtype=np.int8)
    group[trace.blocks[below]] = np.repeat(of_request, lengths)[below]
    return group


def grouped_run(evaluator: Evaluator, depth: int, current: Configuration, roots: Sequence[int]) -> Candidate:
    """A configuration with a TTL for each subtree below ``roots``, and the last for the rest: coupled."""
    scenario = evaluator.scenario
    grouped = replace(scenario, block_group=groups_below(scenario.trace, depth, roots))
    # What nobody asks for any more, at the end of the list, is no group of this trace.
    of_trace = replace(current, ttl_s=current.group_ttl_s[: grouped.groups])
    return Candidate(current, Evaluator(grouped).coupled(of_trace))


def with_groups(
    plan: TracePlan, evaluator: Evaluator, goal: Goal, options: PlanOptions
) -> tuple[Candidate, tuple[int, ...]] | None:
    """The chosen point with a TTL for each subtree, and the ids of their roots; None where one TTL is better.

    Only engines say the ids that keys carry: a trace that nodes inferred has no groups.
    """
    scenario, chosen = evaluator.scenario, plan.selection.chosen.configuration
    if goal.groups < 2 or not chosen.has_ssd or scenario.trace.observed_at != "engine":
        return None
    from kvtide_operator.plan.group_plan import plan_groups  # its solver takes half a second to import

    roots = popular_roots(scenario.trace, goal.root_depth, goal.groups)
    groups = groups_below(scenario.trace, goal.root_depth, roots)
    found = plan_groups(
        plan,
        miss_stream(evaluator.cache(chosen.dram_bytes, chosen.instances)),
        groups,
        lambda group: Evaluator(replace(scenario, block_group=group)),
        goal.space.ttl_max_s,
        options,
        SEED,
    )
    if found is None or not found.adopted:
        return None
    return found.selection.chosen, roots
