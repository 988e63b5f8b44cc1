"""What every search owes, and how near ours comes to the grid on a known landscape."""

from dataclasses import replace
from fractions import Fraction

import pytest

from kvtide_operator.plan.explorer import BudgetSpentError, Explorer
from kvtide_operator.plan.grid import Grid
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.kareto_paper import KaretoPaper
from kvtide_operator.plan.nsga2 import Nsga2
from kvtide_operator.plan.outcome import Candidate, objectives_of
from kvtide_operator.plan.search import SEARCHES, run_search
from kvtide_operator.plan.space import SearchSpace, SpaceError
from kvtide_operator.plan.workers import inline
from kvtide_operator.simulate.configuration import Configuration

GIB = 1 << 30


class Counting:
    """Counts how often each configuration is evaluated."""

    def __init__(self, evaluate):
        self.evaluate = evaluate
        self.calls: list[Configuration] = []

    def __call__(self, configuration):
        self.calls.append(configuration)
        return self.evaluate(configuration)


@pytest.mark.parametrize("name", SEARCHES)
def test_no_configuration_is_evaluated_twice_and_the_limit_holds(name, analytic, space, bounds):
    for limit in (3, 40):
        counting = Counting(analytic)
        search = replace(SEARCHES[name](), max_evaluations=limit)
        found = run_search(search, space, bounds, inline(counting))
        assert len(counting.calls) == len(set(counting.calls)) == len(found.candidates) <= limit
        assert found.complete == (len(found.candidates) < limit)


@pytest.mark.parametrize("name", SEARCHES)
def test_no_point_of_the_frontier_is_dominated(name, analytic, space, bounds):
    found = run_search(SEARCHES[name](), space, bounds, inline(analytic))
    everything = objectives_of([c for c in found.candidates if c.outcome.stable])
    for row in objectives_of(found.frontier):
        better = (everything <= row).all(axis=1) & (everything < row).any(axis=1)
        assert not better.any()
    costs = [c.outcome.cost_per_hour for c in found.frontier]
    assert costs == sorted(costs)


@pytest.mark.parametrize("name", SEARCHES)
def test_all_classes_are_tried_and_the_ones_without_ssd_are_one(name, analytic, space, bounds):
    found = run_search(
        SEARCHES[name](), replace(space, tier_classes=("fast", "slow")), bounds, inline(analytic)
    )
    configurations = [c.configuration for c in found.candidates]
    assert {c.tier_class for c in configurations} == {None, "fast", "slow"}
    assert all((c.ttl_s == 0) == (c.tier_class is None) for c in configurations)


def test_the_grid_is_the_papers(analytic, space, bounds):
    found = run_search(Grid(), space, bounds, inline(analytic))
    assert len(found.candidates) == 17 * 31
    assert {c.configuration.dram_bytes // GIB for c in found.candidates} == set(range(0, 4097, 256))
    assert {c.configuration.ttl_s for c in found.candidates} == {float(s) for s in range(0, 3601, 120)}


def test_ours_reaches_the_grid_with_a_seventh_of_its_evaluations(analytic, space, bounds):
    grid = run_search(Grid(), space, bounds, inline(analytic))
    ours = run_search(Kareto(), space, bounds, inline(analytic))
    assert len(ours.candidates) <= 80
    assert ours.hypervolume.value >= 0.995 * grid.hypervolume.value


def test_ours_ends_by_itself_once_nothing_promises_more(analytic, space, bounds):
    found = run_search(Kareto(max_evaluations=2000, tau_refine=0.01), space, bounds, inline(analytic))
    assert found.complete
    assert len(found.candidates) < 80


def test_ours_expands_to_where_the_optimum_is_and_no_further(outcome, space, bounds):
    def saturating(knee_gib, knee_s):
        def evaluate(configuration):
            share = min(configuration.dram_bytes / GIB / knee_gib, 1.0) * 0.5
            share += min(configuration.ttl_s / knee_s, 1.0) * 0.5
            cost = 20 + configuration.dram_bytes / GIB / 1000 + configuration.ttl_s / 3600
            return outcome(ttft_mean_s=5 - 4 * share, cost_per_hour=cost)

        return evaluate

    small = run_search(Kareto(), space, bounds, inline(saturating(1000, 900)))
    assert max(c.configuration.dram_bytes for c in small.candidates) == 2048 * GIB
    assert max(c.configuration.ttl_s for c in small.candidates) == 1800.0
    large = run_search(Kareto(), space, bounds, inline(saturating(4096, 3600)))
    assert max(c.configuration.dram_bytes for c in large.candidates) == 4096 * GIB
    assert max(c.configuration.ttl_s for c in large.candidates) == 3600.0


@pytest.mark.parametrize("slope", [0.1, 5.0])
@pytest.mark.parametrize("price", [0.0001, 0.003])
def test_where_everything_is_monotone_the_whole_line_is_the_frontier(outcome, bounds, slope, price):
    """DRAM only, latency falls and cost rises with every byte: all that was evaluated is non-dominated."""

    def evaluate(configuration):
        gib = configuration.dram_bytes / GIB
        return outcome(ttft_mean_s=1 + slope * (1 - gib / 4096), cost_per_hour=20 + price * gib)

    space = SearchSpace(dram_min_bytes=0, dram_max_bytes=4096 * GIB)
    for search in (Grid(), Kareto(), KaretoPaper()):
        found = run_search(search, space, bounds, inline(evaluate))
        assert len(found.frontier) == len(found.candidates)
        assert {c.configuration.tier_class for c in found.candidates} == {None}


def test_nsga2_repeats_itself_for_its_seed_only(analytic, space, bounds):
    def found(seed):
        return run_search(Nsga2(seed=seed), space, bounds, inline(analytic)).candidates

    assert found(1) == found(1)
    assert found(1) != found(2)


@pytest.mark.parametrize("name", SEARCHES)
def test_where_nothing_is_stable_there_is_still_a_frontier(name, analytic, space, bounds):
    def overloaded(configuration):
        return replace(analytic(configuration), stable=False, ttft_mean_s=float("inf"))

    found = run_search(SEARCHES[name](), space, bounds, inline(overloaded))
    assert found.frontier
    assert found.hypervolume.axes == ("cost_per_hour", "-throughput_tok_s")


@pytest.mark.parametrize("name", SEARCHES)
def test_a_space_of_one_point_is_searched_in_one_evaluation(name, analytic, bounds):
    space = SearchSpace(
        dram_min_bytes=GIB, dram_max_bytes=GIB, ttl_min_s=60.0, ttl_max_s=60.0, tier_classes=("fast",)
    )
    found = run_search(SEARCHES[name](), space, bounds, inline(analytic))
    assert [c.configuration for c in found.candidates] == [Configuration(GIB, 60.0, "fast")]


def test_sizes_keep_to_their_step_and_reach_the_maximum():
    space = SearchSpace(dram_min_bytes=10, dram_max_bytes=47, dram_step_bytes=8)
    sizes = {space.configuration(Fraction(i, 64), Fraction(0), None).dram_bytes for i in range(65)}
    assert sizes == {10, 18, 26, 34, 42, 47}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dram_min_bytes": 5, "dram_max_bytes": 4}, "least DRAM, 5 bytes"),
        ({"ttl_min_s": 20.0, "ttl_max_s": 10.0}, "shortest TTL, 20 s"),
        ({"ttl_max_s": float("inf")}, "must be finite"),
        ({"volumes": 0}, "above 0"),
    ],
)
def test_bounds_that_hold_nothing_are_refused(change, message):
    with pytest.raises(SpaceError, match=message):
        SearchSpace(**{"dram_min_bytes": 0, "dram_max_bytes": GIB, **change})


def test_at_the_limit_the_first_ones_are_evaluated_and_kept(analytic):
    told = []
    explorer = Explorer(inline(analytic), 2, lambda done, allowed: told.append((done, allowed)))
    wanted = [Configuration(size * GIB) for size in (3, 1, 3, 2)]
    with pytest.raises(BudgetSpentError):
        explorer.evaluate(wanted)
    assert explorer.candidates == tuple(Candidate(c, analytic(c)) for c in wanted[:2])
    explorer.evaluate(wanted[:2])
    assert told[-1] == (2, 2)
    assert explorer.evaluations == 2


def test_an_error_of_the_evaluator_reaches_the_caller(space, bounds):
    def broken(configuration):
        raise ValueError(f"{configuration.dram_bytes} bytes cannot be simulated")

    with pytest.raises(ValueError, match="cannot be simulated"):
        run_search(Kareto(), space, bounds, inline(broken))
