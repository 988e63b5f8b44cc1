"""Which past a plan is made on, and its regret."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.periods import WEEK_S, Window, planning_window, regret, requests_in
from kvtide_operator.plan.selector import Constraints
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.workload.trace import Trace

HOUR = 3600.0


def test_the_same_slot_of_last_week_where_history_reaches():
    now = 10 * 24 * HOUR
    assert planning_window(0.0, now, 2 * HOUR) == Window(now - WEEK_S, now - WEEK_S + 2 * HOUR, True)


def test_the_trailing_window_otherwise_and_what_there_is_of_it():
    assert planning_window(0.0, 6 * 24 * HOUR, HOUR) == Window(6 * 24 * HOUR - HOUR, 6 * 24 * HOUR, False)
    assert planning_window(100.0, 160.0, HOUR) == Window(100.0, 160.0, False)
    assert planning_window(0.0, 10 * WEEK_S, HOUR, None) == Window(10 * WEEK_S - HOUR, 10 * WEEK_S, False)


@given(st.floats(0, 1e7), st.floats(0, 1e7), st.floats(1, 1e6), st.none() | st.floats(1, 1e6))
def test_a_window_is_always_past_and_within_history(start, length, period, season):
    now = start + length
    window = planning_window(start, now, period, season)
    assert start <= window.start_s + 1e-6
    assert window.start_s <= window.end_s <= now + 1e-6
    assert window.end_s - window.start_s <= period + 1e-6


def test_a_window_of_a_trace_is_half_open_and_starts_at_0():
    trace = Trace(
        arrival_s=np.array([0.0, 10.0, 20.0, 30.0]),
        input_tokens=np.full(4, 512, np.int32),
        output_tokens=np.ones(4, np.int32),
        block_start=np.arange(5),
        blocks=np.array([0, 1, 0, 2], np.int32),
        block_ids=np.array([7, 8, 9]),
        weight=np.ones(4),
        block_tokens=512,
    )
    part = requests_in(trace, 10.0, 30.0)
    assert part.arrival_s.tolist() == [0.0, 10.0]
    assert part.block_ids[part.blocks].tolist() == [8, 7]
    assert requests_in(trace, 31.0, 40.0).requests == 0


def test_regret_is_against_the_best_of_the_next_period(outcome):
    small, large = Configuration(1), Configuration(2)
    planned = Candidate(small, outcome(ttft_mean_s=1.0, cost_per_hour=21.0))
    tomorrow = {
        small: outcome(ttft_mean_s=5.0, ttft_p99_s=9.0, cost_per_hour=21.0, throughput_tok_s=90.0),
        large: outcome(ttft_mean_s=2.0, ttft_p99_s=3.0, cost_per_hour=22.0, throughput_tok_s=100.0),
    }
    found = regret(
        planned,
        tomorrow.__getitem__,
        lambda: tuple(Candidate(c, o) for c, o in tomorrow.items()),
        Constraints(ttft_p99_s=4.0),
        "Cost",
    )
    assert found.optimum.configuration == large
    assert found.cost_per_hour == pytest.approx(-1.0)
    assert found.ttft_mean_s == pytest.approx(3.0)
    assert found.throughput_tok_s == pytest.approx(10.0)
    assert found.broken == ("ttft_p99_s",)


def test_a_plan_that_was_right_has_no_regret_even_if_the_search_misses_it(outcome):
    planned = Candidate(Configuration(1), outcome())
    worse = Candidate(Configuration(2), outcome(cost_per_hour=25.0))
    found = regret(planned, lambda _: outcome(), lambda: (worse,), Constraints(), "Cost")
    assert (found.cost_per_hour, found.ttft_mean_s, found.broken) == (0.0, 0.0, ())
