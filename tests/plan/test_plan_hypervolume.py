"""Hypervolumes worked by hand, and what the bounds must guarantee."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.plan.hypervolume import Bounds, dominated_volume, hypervolume
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.simulate.configuration import Configuration

UNIT = Bounds(cost_per_hour=(0.0, 10.0), ttft_s=(0.0, 2.0), throughput_tok_s=100.0)


def test_two_boxes_that_overlap_count_once():
    # Boxes to (1.01, 1.01): 0.51 x 0.91 and 0.91 x 0.51, which share 0.51 x 0.51.
    expected = 2 * 0.51 * 0.91 - 0.51**2
    assert dominated_volume(np.array([[0.5, 0.1], [0.1, 0.5]])) == pytest.approx(expected)


def test_one_point_is_a_box_of_the_scaled_space(outcome):
    point = Candidate(Configuration(1), outcome(cost_per_hour=5.0, ttft_mean_s=0.5, throughput_tok_s=100.0))
    found = hypervolume([point], UNIT)
    assert found.value == pytest.approx(0.51 * 0.76 * 1.01)
    assert found.axes == ("cost_per_hour", "ttft_mean_s", "-throughput_tok_s")
    assert found.reference == (1.01, 1.01, 1.01)


def test_unstable_points_and_points_beyond_the_bounds_add_nothing(outcome):
    good = Candidate(Configuration(1), outcome(cost_per_hour=5.0, ttft_mean_s=0.5, throughput_tok_s=50.0))
    unstable = Candidate(Configuration(2), outcome(cost_per_hour=0.0, ttft_mean_s=0.0, stable=False))
    far = Candidate(Configuration(3), outcome(cost_per_hour=0.0, ttft_mean_s=5.0, throughput_tok_s=90.0))
    assert hypervolume([good, unstable, far], UNIT).value == hypervolume([good], UNIT).value > 0


def test_where_none_is_stable_it_is_cost_and_throughput_and_says_so(outcome):
    point = Candidate(
        Configuration(1), outcome(cost_per_hour=5.0, ttft_mean_s=1e9, throughput_tok_s=50.0, stable=False)
    )
    found = hypervolume([point], UNIT)
    assert found.axes == ("cost_per_hour", "-throughput_tok_s")
    assert found.value == pytest.approx(0.51 * 0.51)


def test_nothing_found_is_worth_nothing():
    assert hypervolume([], UNIT).value == 0.0


@given(
    st.lists(st.tuples(*[st.floats(0, 1.2)] * 3), min_size=1, max_size=12),
    st.tuples(*[st.floats(0, 1.2)] * 3),
)
def test_another_point_never_lowers_it_and_a_dominated_one_adds_nothing(points, extra):
    values = np.array(points)
    volume = dominated_volume(values)
    assert dominated_volume(np.vstack([values, extra])) >= volume - 1e-12
    worse = values[0] + 0.001
    assert dominated_volume(np.vstack([values, worse])) == pytest.approx(volume, abs=1e-12)


def test_bounds_without_extent_do_not_divide_by_zero(outcome):
    flat = Bounds(cost_per_hour=(5.0, 5.0), ttft_s=(1.0, 1.0), throughput_tok_s=0.0)
    point = Candidate(Configuration(1), outcome(cost_per_hour=5.0, ttft_mean_s=1.0, throughput_tok_s=0.0))
    assert np.isfinite(hypervolume([point], flat).value)
