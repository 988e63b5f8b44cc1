"""The non-dominated filter against its definition, with ties."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.pareto import frontier, non_dominated
from kvtide_operator.simulate.configuration import Configuration

rows = st.integers(1, 4).flatmap(
    lambda axes: st.lists(st.lists(st.integers(0, 4), min_size=axes, max_size=axes), min_size=1, max_size=40)
)


def by_definition(points: np.ndarray) -> list[bool]:
    kept = []
    for i, one in enumerate(points):
        dominated = any((other <= one).all() and (other < one).any() for other in points)
        repeated = any((other == one).all() for other in points[:i])
        kept.append(not dominated and not repeated)
    return kept


@given(rows)
def test_the_filter_is_the_definition_of_dominance(values):
    points = np.array(values, dtype=np.float64)
    assert non_dominated(points).tolist() == by_definition(points)


def test_infinite_rows_are_dominated_by_finite_ones():
    points = np.array([[1.0, np.inf], [1.0, 2.0], [0.5, np.inf]])
    assert non_dominated(points).tolist() == [False, True, True]


def test_no_points_have_no_frontier():
    assert non_dominated(np.empty((0, 3))).tolist() == []
    assert frontier([]) == ()


def test_an_unstable_point_is_never_on_a_frontier_with_stable_ones(outcome):
    slow = Candidate(Configuration(1), outcome(cost_per_hour=30.0, ttft_mean_s=9.0))
    unstable = Candidate(Configuration(2), outcome(cost_per_hour=20.0, ttft_mean_s=0.1, stable=False))
    assert frontier([unstable, slow]) == (slow,)


def test_where_none_is_stable_latency_has_no_say(outcome):
    a = Candidate(Configuration(1), outcome(cost_per_hour=20.0, throughput_tok_s=50.0, stable=False))
    b = Candidate(
        Configuration(2), outcome(cost_per_hour=21.0, ttft_mean_s=0.1, throughput_tok_s=40.0, stable=False)
    )
    assert frontier([a, b]) == (a,)
