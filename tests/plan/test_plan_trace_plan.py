"""Search, choice, coupled re-run, TTL groups and the number of engines, with a simulator of known shape."""

from dataclasses import replace

import numpy as np
import pytest

from kvtide_operator.plan.group_plan import plan_groups
from kvtide_operator.plan.group_ttl import curves_of
from kvtide_operator.plan.groups import subtree_groups
from kvtide_operator.plan.instances import advised, instance_costs
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.miss_stream import miss_stream, prefix_hits
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.selector import Constraints
from kvtide_operator.plan.trace_plan import MAX_COUPLED_RUNS, PlanOptions, plan_trace
from kvtide_operator.plan.workers import inline
from kvtide_operator.simulate.cache.passes import cache_pass
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.requests import requests_of

GIB = 1 << 30


class Simulator:
    """Both ways agree but for what a test changes."""

    def __init__(self, evaluate, coupled=None):
        self.evaluate = evaluate
        self.coupled = coupled or evaluate


def options(prefer="Cost", **constraints):
    return PlanOptions(
        search=Kareto(),
        constraints=Constraints(**constraints),
        prefer=prefer,
        baseline=Configuration(1024 * GIB),
    )


def test_a_plan_is_the_chosen_point_of_a_frontier_beside_its_baseline(analytic, space, bounds):
    progress = []
    plan = plan_trace(
        Simulator(analytic),
        space,
        bounds,
        options(ttft_p99_s=12.0),
        inline(analytic),
        lambda *p: progress.append(p),
    )
    chosen = plan.selection.chosen
    assert plan.selection.feasible
    assert chosen.outcome.ttft_p99_s <= 12.0
    assert chosen in plan.frontier
    assert all(
        c.outcome.ttft_p99_s > 12.0
        for c in plan.frontier
        if c.outcome.cost_per_hour < chosen.outcome.cost_per_hour
    )
    assert plan.baseline == Candidate(Configuration(1024 * GIB), analytic(Configuration(1024 * GIB)))
    assert progress[-1][0] == plan.evaluations


def test_a_choice_that_the_coupled_run_refutes_is_not_made(analytic, space, bounds):
    """The coupled simulator is slower by half: a point that kept the constraint in two stages breaks it."""

    def coupled(configuration):
        outcome = analytic(configuration)
        return replace(outcome, ttft_p99_s=1.5 * outcome.ttft_p99_s)

    plan = plan_trace(Simulator(analytic, coupled), space, bounds, options(ttft_p99_s=20.0), inline(analytic))
    two_stage = plan_trace(Simulator(analytic), space, bounds, options(ttft_p99_s=20.0), inline(analytic))
    configuration = plan.selection.chosen.configuration
    assert plan.selection.chosen.outcome == coupled(configuration)
    # The frontier has no second row of it with the figures of two stages.
    shown = [candidate for candidate in plan.frontier if candidate.configuration == configuration]
    assert shown in ([], [plan.selection.chosen])
    assert len({candidate.configuration for candidate in plan.frontier}) == len(plan.frontier)
    for candidate in plan.frontier:
        simulated = coupled if candidate.configuration in plan.coupled else analytic
        assert candidate.outcome == simulated(candidate.configuration)
    assert configuration != two_stage.selection.chosen.configuration


def test_coupled_runs_are_bounded(analytic, space, bounds):
    runs = []

    def coupled(configuration):
        runs.append(configuration)
        return replace(analytic(configuration), stable=False)

    plan_trace(Simulator(analytic, coupled), space, bounds, options(), inline(analytic))
    assert len(runs) == MAX_COUPLED_RUNS + 1


def test_groups_are_adopted_where_they_buy_hits_for_the_same_block_seconds(
    trace_of, analytic, space, bounds, outcome
):
    """Half of the blocks return after 3 s, half never: a group each; TTFT falls with hits."""
    rows = []
    for i in range(40):
        rows += [[0, 1, 10 + i % 3], [0, 2, 1000 + i]]
    trace = trace_of(*rows)
    requests = requests_of(trace, "mooncake")
    stream = miss_stream(cache_pass(requests, empty_pool(requests, 1, 0, 4, "writeThrough", "roundRobin")))

    def simulator_of(block_group):
        def coupled(configuration):
            ttl = configuration.ttl_s
            row_ttl = (
                np.array(ttl)[block_group[stream.block]]
                if isinstance(ttl, tuple)
                else np.full(len(stream.block), ttl)
            )
            return outcome(ttft_mean_s=10.0 - prefix_hits(stream, row_ttl) / len(trace.blocks))

        return Simulator(None, coupled)

    group = subtree_groups(trace, 1)
    uniform = Configuration(4, 3.0, "fast")
    plan = plan_trace(Simulator(analytic), space, bounds, options(), inline(analytic))
    known = Candidate(uniform, simulator_of(group).coupled(uniform))
    plan = replace(plan, selection=replace(plan.selection, chosen=known))
    found = plan_groups(plan, stream, group, simulator_of, 3600.0, options("Latency"), seed=0)
    assert found.adopted
    ttl = found.selection.chosen.configuration.ttl_s
    assert len(ttl) == 2
    assert found.selection.chosen.outcome.ttft_mean_s < known.outcome.ttft_mean_s
    curves = curves_of(stream, group[stream.block], 2)
    budget = sum(float(curve.block_seconds(3.0)) for curve in curves)
    assert sum(float(c.block_seconds(t)) for c, t in zip(curves, ttl, strict=True)) <= budget


def test_without_ssd_there_is_nothing_to_group(trace_of, analytic, space, bounds):
    trace = trace_of([1], [2])
    requests = requests_of(trace, "mooncake")
    stream = miss_stream(cache_pass(requests, empty_pool(requests, 1, 0, 1, "writeThrough", "roundRobin")))
    space = replace(space, tier_classes=())
    plan = plan_trace(Simulator(analytic), space, bounds, options(), inline(analytic))
    assert plan_groups(plan, stream, subtree_groups(trace, 1), Simulator, 60.0, options(), seed=0) is None


def test_the_advised_number_of_engines_is_the_cheapest_that_keeps_the_constraints(outcome):
    def cheapest(instances):
        served = outcome(cost_per_hour=20.0 * instances, throughput_tok_s=1000.0 * min(instances, 2.5))
        return Candidate(Configuration(GIB, instances=instances), served), instances >= 2

    costs = instance_costs(cheapest, 1, 4)
    assert [cost.instances for cost in costs] == [1, 2, 3, 4]
    assert costs[0].cost_per_million_tokens == pytest.approx(20 / 3.6)
    assert advised(costs).instances == 2
    assert advised(costs[:1]) is None


def test_engines_that_serve_nothing_cost_infinitely_much_a_token(outcome):
    (cost,) = instance_costs(
        lambda _: (Candidate(Configuration(GIB), outcome(throughput_tok_s=0.0)), True), 1, 1
    )
    assert cost.cost_per_million_tokens == float("inf")


def test_a_plan_stays_within_the_endurance_that_the_coupled_run_finds(analytic, space, bounds):
    """Writes fall as DRAM grows; the coupled simulator finds half as many again as the two stages."""

    def of(factor):
        def evaluate(configuration):
            used = factor * 600 * GIB / max(configuration.dram_bytes, GIB) if configuration.has_ssd else None
            return replace(analytic(configuration), endurance_used=used)

        return evaluate

    plan = plan_trace(Simulator(of(1.0), of(1.5)), space, bounds, options("Latency"), inline(of(1.0)))
    chosen = plan.selection.chosen
    assert plan.selection.feasible
    assert chosen.outcome.endurance_used is None or chosen.outcome.endurance_used <= 1.0
    assert plan.selection.excluded["endurance"] > 0
