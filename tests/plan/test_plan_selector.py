"""Which point is taken, and what is said about the others."""

from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.selector import Constraints, equally_near, missed, select, write_through_warning
from kvtide_operator.simulate.configuration import Configuration

GIB = 1 << 30


def points(outcome, *rows):
    """Rows of (cost, mean TTFT, throughput, P99 TTFT, stable)."""
    return [
        Candidate(
            Configuration(index * GIB),
            outcome(
                cost_per_hour=20 + cost,
                storage_cost_per_hour=cost,
                ttft_mean_s=mean,
                throughput_tok_s=throughput,
                ttft_p99_s=p99,
                stable=stable,
            ),
        )
        for index, (cost, mean, throughput, p99, stable) in enumerate(rows)
    ]


def line(outcome):
    return points(
        outcome,
        (0.0, 9.0, 80.0, 30.0, False),
        (1.0, 4.0, 100.0, 12.0, True),
        (2.0, 1.5, 100.0, 5.0, True),
        (6.0, 1.2, 101.0, 3.0, True),
        (9.0, 1.1, 104.0, 1.9, True),
    )


def chosen(candidates, constraints, prefer):
    return select(candidates, constraints, prefer).chosen.configuration.dram_bytes // GIB


def test_each_objective_takes_its_end_and_the_knee_lies_between(outcome):
    free = Constraints()
    assert chosen(line(outcome), free, "Cost") == 1
    assert chosen(line(outcome), free, "Latency") == 4
    assert chosen(line(outcome), free, "Throughput") == 4
    assert chosen(line(outcome), free, "Balanced") == 2


def test_a_constraint_moves_the_choice_and_says_how_many_it_ruled_out(outcome):
    found = select(line(outcome), Constraints(ttft_p99_s=4.0), "Cost")
    assert found.feasible
    assert found.chosen.configuration.dram_bytes == 3 * GIB
    assert found.excluded == {"stable": 1, "ttft_p99_s": 3}
    assert "ttft_p99_s 3" in found.why


def test_a_budget_caps_storage_not_gpus(outcome):
    assert chosen(line(outcome), Constraints(storage_cost_per_hour=6.0), "Latency") == 3


def test_a_throughput_floor(outcome):
    assert chosen(line(outcome), Constraints(throughput_tok_s=100.5), "Cost") == 3


def test_a_percentile_may_choose_a_point_off_the_frontier_of_means(outcome):
    candidates = points(outcome, (1.0, 1.0, 100.0, 9.0, True), (1.5, 1.1, 100.0, 2.0, True))
    assert chosen(candidates, Constraints(ttft_p99_s=3.0), "Cost") == 1


def test_infeasible_is_an_answer_with_the_nearest_point(outcome):
    found = select(line(outcome), Constraints(ttft_p99_s=1.0, storage_cost_per_hour=8.0), "Cost")
    assert not found.feasible
    # (6, P99 3): 200 % over; (9, P99 1.9): 90 % and 12.5 % over, which is less.
    assert found.chosen.configuration.dram_bytes == 4 * GIB
    assert found.why == (
        "infeasible: no size reaches a TTFT p99 of 1 s, best 1.9 s; no size that keeps the others reaches "
        "a storage cost of 8 an hour, best 1 an hour; chosen is the cheapest of the sizes that come nearest"
    )


def test_of_sizes_that_miss_a_limit_equally_the_objective_chooses(outcome):
    """768 GiB misses the limit no less than 384: it buys nothing."""
    candidates = points(
        outcome, (0.5, 3.0, 100.0, 19.0, True), (1.5, 1.1, 100.0, 9.04, True), (3.0, 1.0, 100.0, 9.0, True)
    )
    found = select(candidates, Constraints(ttft_p99_s=1.0), "Cost")
    assert (found.feasible, found.chosen.configuration.dram_bytes) == (False, GIB)
    assert "no size reaches a TTFT p99 of 1 s, best 9 s" in found.why
    assert chosen(candidates, Constraints(ttft_p99_s=1.0), "Latency") == 2
    assert equally_near(candidates[1].outcome, candidates[2].outcome, Constraints(ttft_p99_s=1.0))
    assert not equally_near(candidates[0].outcome, candidates[2].outcome, Constraints(ttft_p99_s=1.0))


def test_an_unstable_point_is_nearest_only_among_unstable_ones(outcome):
    candidates = points(outcome, (0.0, 1.1, 80.0, 1.1, False), (5.0, 9.0, 80.0, 30.0, True))
    assert chosen(candidates, Constraints(ttft_p99_s=1.0), "Cost") == 1
    found = select(candidates[:1], Constraints(), "Cost")
    assert (found.feasible, found.excluded) == (False, {"stable": 1})
    assert found.why.startswith("infeasible: the queue grows at every size")


def test_noise_in_throughput_does_not_make_a_knee(outcome):
    candidates = points(
        outcome,
        (0.0, 4.0, 100.000, 9.0, True),
        (1.0, 1.5, 100.001, 9.0, True),
        (9.0, 1.0, 100.002, 9.0, True),
    )
    assert chosen(candidates, Constraints(), "Balanced") == 1


def test_a_single_point_is_everything(outcome):
    for prefer in ("Cost", "Latency", "Throughput", "Balanced"):
        assert chosen(line(outcome)[2:3], Constraints(), prefer) == 2


def test_dram_below_the_gpu_caches_is_warned_of():
    assert write_through_warning(100 * GIB, 2, 60 * GIB) is not None
    assert write_through_warning(120 * GIB, 2, 60 * GIB) is None
    assert write_through_warning(0, 2, 60 * GIB) is None


def worn(outcome, *used):
    """Points of rising cost, each with the share of its SSD's endurance that its writes take."""
    return [
        Candidate(
            Configuration(index * GIB, 60.0, "ssd"), outcome(cost_per_hour=20 + index, endurance_used=share)
        )
        for index, share in enumerate(used)
    ]


def test_what_wears_an_ssd_out_is_not_chosen(outcome):
    found = select(worn(outcome, 1.01, 1.0, 0.5), Constraints(), "Cost")
    assert (found.feasible, found.chosen.configuration.dram_bytes) == (True, GIB)
    assert found.excluded == {"stable": 0, "endurance": 1}
    assert "endurance 1" in found.why


def test_a_class_without_an_endurance_wears_nothing_out(outcome):
    found = select(worn(outcome, None, 5.0), Constraints(), "Cost")
    assert found.chosen.configuration.dram_bytes == 0
    assert select(worn(outcome, None, None), Constraints(), "Cost").excluded == {"stable": 0}


def test_where_all_wear_it_out_the_nearest_is_said(outcome):
    found = select(worn(outcome, 3.0, 1.5, 2.0), Constraints(), "Cost")
    assert (found.feasible, found.chosen.configuration.dram_bytes) == (False, GIB)
    assert "the least any size writes is 150% of the endurance" in found.why


def test_what_a_point_misses_is_said_with_by_how_much(outcome):
    unstable, *_, near, best = (each.outcome for each in line(outcome))
    asked = Constraints(ttft_p99_s=2.0, throughput_tok_s=1e12, storage_cost_per_hour=8.0)
    assert missed(near, asked) == (
        "a TTFT p99 of 3 s, 50% above 2 s and a throughput of 101 tokens/s, 100% below 1e+12 tokens/s"
    )
    assert missed(best, Constraints(storage_cost_per_hour=0.09)) == (
        "a storage cost of 9 an hour, 9,900% above 0.09 an hour"
    )
    assert missed(unstable, Constraints(ttft_p99_s=2.0)) == "a queue that grows", (
        "latencies mean nothing there"
    )
    assert missed(best, Constraints(ttft_p99_s=2.0)) == ""
