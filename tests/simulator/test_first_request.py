"""Requests before the first that counts fill the caches and count in no figure."""

from dataclasses import replace

import pytest

from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.evaluator import Evaluator


def test_a_warmed_up_request_hits_and_only_it_counts(make_trace, make_scenario):
    trace = make_trace([(0.0, 300, 1, [1, 2, 3]), (100.0, 300, 1, [1, 2, 3]), (200.0, 200, 1, [4, 5])])
    whole = Evaluator(make_scenario(trace)).coupled(Configuration(1 << 20))
    warmed = Evaluator(replace(make_scenario(trace), first_request=1)).coupled(Configuration(1 << 20))
    assert (whole.prefix_hit_ratio, whole.blocks_requested) == (3 / 8, 8)
    assert (warmed.prefix_hit_ratio, warmed.blocks_requested) == (3 / 5, 5)
    assert warmed.ttft_mean_s < whole.ttft_mean_s
    assert warmed.makespan_s == pytest.approx(whole.makespan_s - 100.0)


@pytest.mark.parametrize("first", [-1, 3])
def test_the_first_request_is_one_of_the_trace(make_trace, make_scenario, first):
    trace = make_trace([(float(at), 100, 1, [at]) for at in range(3)])
    with pytest.raises(SimulationError, match=f"first_request is {first}: give one of the 3 requests"):
        replace(make_scenario(trace), first_request=first)
