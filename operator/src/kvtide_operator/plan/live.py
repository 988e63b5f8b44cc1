"""The plan of a running cache: the search over the last window, and what moving would gain."""

from dataclasses import replace

from kvtide_operator.plan.bounds import bounds_of
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.live_groups import grouped_run, with_groups
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Goal, Plan
from kvtide_operator.plan.selector import Prefer, equally_near, missed, select
from kvtide_operator.plan.trace_plan import PlanOptions, plan_trace
from kvtide_operator.plan.workers import inline
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.scenario import Scenario


def plan_window(scenario: Scenario, goal: Goal, current: Configuration, roots: tuple[int, ...] = ()) -> Plan:
    """Search, choose, and compare with what there is. Pure: it may run in another process.

    Args:
        scenario: the window and what the manifest declares.
        goal: what the user wants.
        current: what there is.
        roots: of the subtrees that ``current`` has TTLs for, as in `Plan`.

    Raises:
        SimulationError: the window cannot be simulated.
    """
    evaluator = Evaluator(scenario)
    uniform = replace(current, ttl_s=max(current.group_ttl_s))
    options = PlanOptions(search=Kareto(), constraints=goal.constraints, prefer=goal.prefer, baseline=uniform)
    bounds = bounds_of(scenario, goal.space)
    found = plan_trace(evaluator, goal.space, bounds, options, inline(evaluator.evaluate))
    here = grouped_run(evaluator, goal.root_depth, current, roots) if roots else found.baseline
    refined = with_groups(found, evaluator, goal, options)
    chosen, chosen_roots = refined or (found.selection.chosen, ())
    kept = select((here,), goal.constraints, goal.prefer).feasible
    # Out of reach of the constraints, what counts is how near to them one comes.
    prefer = goal.prefer
    if not found.selection.feasible and not equally_near(here.outcome, chosen.outcome, goal.constraints):
        prefer = "Latency" if chosen.outcome.stable else "Throughput"
    return Plan(
        frontier=found.frontier,
        chosen=chosen,
        feasible=found.selection.feasible,
        current=here,
        gain=1.0 if found.selection.feasible and not kept else gain(here, chosen, prefer),
        evaluations=found.evaluations,
        why=_why(found.selection.why, here, chosen),
        roots=chosen_roots,
        missed=missed(chosen.outcome, goal.constraints),
        missed_now=missed(here.outcome, goal.constraints),
    )


def gain(here: Candidate, there: Candidate, prefer: Prefer) -> float:
    """By how much ``there`` is better in what is preferred, as a share; below 0 where it is worse.

    ``Balanced`` counts the largest change: the knee trades one objective for another, so that a sum of
    shares would call most moves a loss.
    """
    cost = _saved(here.outcome.storage_cost_per_hour, there.outcome.storage_cost_per_hour)
    latency = _saved(here.outcome.ttft_mean_s, there.outcome.ttft_mean_s)
    throughput = -_saved(here.outcome.throughput_tok_s, there.outcome.throughput_tok_s)
    if prefer == "Balanced":
        return max(cost, latency, throughput)
    return {"Cost": cost, "Latency": latency, "Throughput": throughput}[prefer]


def _saved(before: float, after: float) -> float:
    return (before - after) / before if before > 0 else 0.0


def _why(reason: str, here: Candidate, chosen: Candidate) -> str:
    return f"{_point(chosen)} is {reason}; now {_point(here)}"


def _point(candidate: Candidate) -> str:
    configuration, outcome = candidate.configuration, candidate.outcome
    latency = f"TTFT p99 {outcome.ttft_p99_s:.2f} s" if outcome.stable else "a growing queue"
    grouped = f", {len(configuration.group_ttl_s)} TTL groups" if len(configuration.group_ttl_s) > 1 else ""
    return (
        f"{configuration.dram_bytes / (1 << 20):,.0f}Mi{grouped} ({outcome.prefix_hit_ratio:.1%} hits, "
        f"{latency}, {outcome.storage_cost_per_hour:.2f} an hour)"
    )
