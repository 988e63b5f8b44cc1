"""Plans a trace under a manifest, and says so as the JSON document of `kvtide plan`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvtide_operator.api.manifest import Manifest
from kvtide_operator.plan.bounds import bounds_of
from kvtide_operator.plan.explorer import Progress
from kvtide_operator.plan.groups import subtree_groups
from kvtide_operator.plan.instances import advised, instance_costs
from kvtide_operator.plan.miss_stream import miss_stream
from kvtide_operator.plan.outcome import Candidate, Outcome
from kvtide_operator.plan.periods import regret
from kvtide_operator.plan.search import Search, run_search
from kvtide_operator.plan.selector import select, write_through_warning
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.trace_plan import PlanOptions, TracePlan, plan_trace
from kvtide_operator.plan.workers import Workers
from kvtide_operator.planner.goal import options_of, space_of
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.workload.reuse import measure_reuse

if TYPE_CHECKING:
    from kvtide_operator.plan.group_plan import GroupPlan

GIB = 1 << 30


def planned(
    manifest: Manifest,
    evaluator: Evaluator,
    search: Search,
    workers: Workers,
    *,
    groups: int | None,
    engines: range | None,
    seed: int,
    on_progress: Progress,
) -> tuple[dict[str, Any], Candidate]:
    """The JSON document of a plan, but for how long it took, and the chosen point.

    Args:
        manifest: bounds, objective and constraints.
        evaluator: of the trace.
        search: the algorithm.
        workers: where it simulates.
        groups: prefix subtrees with a TTL of their own; None for one TTL.
        engines: numbers of engines to compare; None for none.
        seed: of the tuner of group TTLs.
        on_progress: told of every finished batch.
    """
    scenario, spec = evaluator.scenario, manifest.cache.spec
    space, options = space_of(manifest), options_of(manifest, search)
    plan = plan_trace(evaluator, space, bounds_of(scenario, space), options, workers, on_progress)
    grouped = _grouped(plan, evaluator, options, space, groups, seed) if groups else None
    selection = grouped.selection if grouped else plan.selection
    notes = list(scenario.trace.notes)
    if scenario.offload == "writeThrough":
        gpu_bytes = scenario.device_blocks * scenario.block_bytes
        dram_bytes = selection.chosen.configuration.dram_bytes
        notes += filter(None, [write_through_warning(dram_bytes, spec.engine.count, gpu_bytes)])
    if groups:
        notes.append(_groups_note(grouped))
    points = [*plan.frontier, selection.chosen, plan.baseline]
    notes += filter(None, [coupled_note(plan), infinite_note(scenario, [c.outcome for c in points])])
    if not plan.complete:
        notes.append(f"the search ended at its limit of {plan.evaluations} evaluations")
    document = {
        "frontier": [
            _point(candidate) | {"coupled": candidate.configuration in plan.coupled}
            for candidate in plan.frontier
        ],
        "chosen": _point(selection.chosen),
        "feasible": selection.feasible,
        "why": selection.why,
        "excluded": selection.excluded,
        "baseline": _point(plan.baseline),
        "currency": scenario.dram_price.currency,
        "evaluations": plan.evaluations,
        "hypervolume": plan.hypervolume.value,
        "hv_reference": plan.hypervolume.reference,
        "hv_axes": plan.hypervolume.axes,
        "notes": notes,
    }
    if engines:
        document["instances"] = _compared(evaluator, space, options, workers, engines)
    return document, selection.chosen


def regretted(
    manifest: Manifest,
    chosen: Candidate,
    following: Evaluator,
    search: Search,
    workers: Workers,
    on_progress: Progress,
) -> dict[str, Any]:
    """What the chosen point costs on the following period, beside what one would choose in hindsight.

    Both are coupled runs that begin with empty caches, as the plan's own did. Differences are null where
    either is unstable and they mean nothing.

    Args:
        manifest: bounds, objective and constraints, those of the plan.
        chosen: the plan's point.
        following: the evaluator of the following period.
        search: the algorithm, the plan's.
        workers: where it simulates the following period.
        on_progress: told of every finished batch.
    """
    scenario, space, options = following.scenario, space_of(manifest), options_of(manifest, search)

    def in_hindsight() -> tuple[Candidate, ...]:
        bounds = bounds_of(scenario, space)
        return (plan_trace(following, space, bounds, options, workers, on_progress).selection.chosen,)

    found = regret(chosen, following.coupled, in_hindsight, options.constraints, options.prefer)
    stable = found.chosen.outcome.stable and found.optimum.outcome.stable
    return {
        "requests": scenario.trace.requests,
        "chosen": _point(found.chosen),
        "optimum": _point(found.optimum),
        "storage_cost_per_hour": found.storage_cost_per_hour,
        "cost_per_hour": found.cost_per_hour,
        "ttft_mean_s": found.ttft_mean_s if stable else None,
        "throughput_tok_s": found.throughput_tok_s if stable else None,
        "broken": found.broken,
        "notes": scenario.trace.notes,
    }


def coupled_note(plan: TracePlan) -> str | None:
    """Why neighbours on the frontier may not quite fit together."""
    if all(candidate.configuration in plan.coupled for candidate in plan.frontier):
        return None
    return (
        "the chosen point, the baseline and whatever was a candidate are simulated with all timing; other "
        "rows in two stages, which may differ by a few percent"
    )


def infinite_note(scenario: Scenario, outcomes: Iterable[Outcome]) -> str | None:
    """Why a hit ratio may be above what an infinite cache of prompts would have."""
    infinite = measure_reuse(scenario.trace).infinite_hit_ratio
    best = max(outcome.prefix_hit_ratio for outcome in outcomes)
    if best <= infinite:
        return None
    return (
        f"hit ratios of up to {best:.3f} are above the {infinite:.3f} of an infinite cache of prompts: "
        "blocks that an answer fills are cached too, and hit when the next turn asks for them"
    )


def _grouped(
    plan: TracePlan,
    evaluator: Evaluator,
    options: PlanOptions,
    space: SearchSpace,
    groups: int,
    seed: int,
) -> "GroupPlan | None":
    from kvtide_operator.plan.group_plan import plan_groups  # its solver takes half a second to import

    configuration = plan.selection.chosen.configuration
    stream = miss_stream(evaluator.cache(configuration.dram_bytes, configuration.instances))
    return plan_groups(
        plan,
        stream,
        subtree_groups(evaluator.scenario.trace, groups),
        lambda group: Evaluator(replace(evaluator.scenario, block_group=group)),
        space.ttl_max_s,
        options,
        seed,
    )


def _groups_note(grouped: "GroupPlan | None") -> str:
    if grouped is None:
        return "no TTL groups: the chosen point keeps nothing on SSD"
    uniform, best = grouped.tuning.uniform.independent_hits, grouped.tuning.best.independent_hits
    verdict = (
        "adopted" if grouped.adopted else "not adopted: simulated, the one TTL fits the objective better"
    )
    return (
        f"TTL groups {verdict}; reuses within TTL {best:,}, with one TTL for the same block-seconds "
        f"{uniform:,}, at most {grouped.tuning.bound_hits:,.0f}"
    )


def _compared(
    evaluator: Evaluator,
    space: SearchSpace,
    options: PlanOptions,
    workers: Workers,
    engines: range,
) -> list[dict[str, Any]]:

    def cheapest(instances: int) -> tuple[Candidate, bool]:
        sized = replace(space, instances=instances)
        found = run_search(options.search, sized, bounds_of(evaluator.scenario, sized), workers)
        selection = select(found.candidates, options.constraints, "Cost")
        return selection.chosen, selection.feasible

    costs = instance_costs(cheapest, engines.start, engines.stop - 1)
    best = advised(costs)
    return [
        {
            "instances": cost.instances,
            "cost_per_million_output_tokens": cost.cost_per_million_tokens,
            "feasible": cost.feasible,
            "advised": cost == best,
            "point": _point(cost.chosen),
        }
        for cost in costs
    ]


def _point(candidate: Candidate) -> dict[str, Any]:
    configuration, outcome = candidate.configuration, candidate.outcome
    lifetime = configuration.ttl_s
    return {
        "dram_gib": configuration.dram_bytes / GIB,
        **({"ttl_groups": lifetime} if isinstance(lifetime, tuple) else {"ttl_s": lifetime}),
        "tier_class": configuration.tier_class,
        "storage_cost_per_hour": outcome.storage_cost_per_hour,
        "cost_per_hour": outcome.cost_per_hour,
        "throughput_tok_s": outcome.throughput_tok_s,
        "ttft_mean_s": outcome.ttft_mean_s,
        "ttft_p50_s": outcome.ttft_p50_s,
        "ttft_p99_s": outcome.ttft_p99_s,
        "prefix_hit_ratio": outcome.prefix_hit_ratio,
        "stable": outcome.stable,
    }
