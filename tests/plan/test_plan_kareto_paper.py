"""Algorithm 1 against examples worked by hand, round by round."""

from fractions import Fraction

import pytest

from kvtide_operator.plan.kareto_paper import KaretoPaper
from kvtide_operator.plan.search import run_search
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.workers import inline

SIZE = 3200
TWO_BY_TWO = KaretoPaper(start_points=2, start_dram=Fraction(1, 2), start_ttl=Fraction(1, 2))


def test_refinement_follows_a_step_in_latency_down_to_the_minimum_step(outcome, bounds):
    """A step in latency between 11/32 and 12/32 of the range; cost is linear, throughput constant.

    Round 1: 0 and 1/2. Their latencies, 10 and 5, differ by 50 %, cost (10, 12) by 17 %: expand to 1, refine
    to 1/4. Round 2: 1/2 and 1 differ by 2 % in latency, 0 and 1/4 by 2 %; 1/4 and 1/2 by 49 %: refine to 3/8.
    Round 3: 1/4 (9.8) and 3/8 (5.2) differ by 47 %, cost (11, 11.5) by 4 %: refine to 5/16; 3/8 and 1/2 by
    4 %. Round 4: 5/16 (9.7) and 3/8 differ by 46 %, cost by 2.2 %: refine to 11/32. Round 5: neighbours are
    1/32 apart, which is the minimum step: the end.
    """
    latency = {0: 10.0, 8: 9.8, 10: 9.7, 11: 9.0, 12: 5.2, 16: 5.0, 32: 4.9}

    def evaluate(configuration):
        part = configuration.dram_bytes * 32 // SIZE
        return outcome(ttft_mean_s=latency[part], cost_per_hour=10 + 4 * part / 32)

    found = run_search(
        TWO_BY_TWO,
        SearchSpace(dram_min_bytes=0, dram_max_bytes=SIZE, dram_step_bytes=1),
        bounds,
        inline(evaluate),
    )
    assert [c.configuration.dram_bytes * 32 // SIZE for c in found.candidates] == [0, 16, 8, 32, 12, 10, 11]
    assert found.complete


def test_expansion_looks_at_ttl_0_alone_and_appends_every_ttl_of_the_start(outcome, bounds):
    """Latency falls with DRAM only without SSD, and cost is flat: a column is appended, nothing refined."""

    def evaluate(configuration):
        if configuration.ttl_s == 0:
            return outcome(ttft_mean_s=10.0 - 2 * configuration.dram_bytes / SIZE)
        return outcome(ttft_mean_s=3.0)

    space = SearchSpace(
        dram_min_bytes=0, dram_max_bytes=SIZE, dram_step_bytes=1, ttl_max_s=100.0, tier_classes=("fast",)
    )
    found = run_search(TWO_BY_TWO, space, bounds, inline(evaluate))
    assert [(c.configuration.dram_bytes, c.configuration.ttl_s) for c in found.candidates] == [
        *[(0, 0.0), (0, 50.0), (SIZE // 2, 0.0), (SIZE // 2, 50.0)],
        *[(SIZE, 0.0), (SIZE, 50.0)],
    ]


def test_a_gain_at_the_threshold_does_not_expand(outcome, bounds):
    def evaluate(configuration):
        return outcome(ttft_mean_s=10.0 - configuration.dram_bytes / SIZE)

    space = SearchSpace(dram_min_bytes=0, dram_max_bytes=SIZE, dram_step_bytes=1)
    found = run_search(KaretoPaper(start_points=2, tau_expand=0.05), space, bounds, inline(evaluate))
    assert [c.configuration.dram_bytes for c in found.candidates] == [0, SIZE // 2]


@pytest.mark.parametrize("latency", [0.0, float("inf")])
def test_equal_latencies_differ_by_nothing_even_where_a_ratio_has_no_value(latency, outcome, bounds):
    def evaluate(configuration):
        return outcome(ttft_mean_s=latency, cost_per_hour=1.0 + configuration.dram_bytes)

    space = SearchSpace(dram_min_bytes=0, dram_max_bytes=SIZE, dram_step_bytes=1)
    assert len(run_search(KaretoPaper(start_points=3), space, bounds, inline(evaluate)).candidates) == 3
