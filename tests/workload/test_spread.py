"""Quantised arrivals are spread within their tick; others stay as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.spread import spread
from kvtide_operator.workload.trace import Trace

MOONCAKE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation.jsonl"


def arriving(at_s: list[float]) -> Trace:
    requests = len(at_s)
    none = np.zeros(0, dtype=np.int64)
    return Trace(
        arrival_s=np.array(at_s),
        input_tokens=np.arange(requests, dtype=np.int32),
        output_tokens=np.zeros(requests, dtype=np.int32),
        block_start=np.zeros(requests + 1, dtype=np.int64),
        blocks=none.astype(np.int32),
        block_ids=none,
        weight=np.ones(requests),
        block_tokens=512,
    )


@given(st.lists(st.integers(0, 20), min_size=3, max_size=60), st.integers(0, 2**32))
def test_each_request_stays_in_its_tick_and_order(ticks: list[int], seed: int) -> None:
    ticks = sorted([0, *ticks])
    trace = arriving([3.0 * tick for tick in ticks])
    moved = spread(trace, seed)
    if moved is trace:
        return
    shift = moved.arrival_s + (trace.arrival_s[0] - moved.arrival_s[0])
    assert np.all(np.diff(moved.arrival_s) >= 0)
    assert moved.arrival_s[0] == 0
    assert np.all(np.abs(shift - trace.arrival_s) <= np.diff(trace.arrival_s).max())
    assert np.array_equal(moved.input_tokens, trace.input_tokens)


def test_ten_requests_a_tick_arrive_evenly() -> None:
    trace = arriving([3.0 * (at // 10) for at in range(20_000)])
    moved = spread(trace, 1)
    within = (moved.arrival_s + 1e-9) % 3.0
    assert len(np.unique(moved.arrival_s)) == trace.requests
    assert np.histogram(within, bins=10)[0] == pytest.approx(np.full(10, 2000), rel=0.1)
    assert np.array_equal(spread(trace, 1).arrival_s, moved.arrival_s)
    assert not np.array_equal(spread(trace, 2).arrival_s, moved.arrival_s)


@pytest.mark.parametrize(
    "at_s",
    [
        [],
        [0.0],
        [0.0, 0.0, 0.0],
        [0.0, 1.0, 2.0, 3.0],
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.7, 2.7, 2.7, 6.1, 6.1, 6.1],
        [0.0, 0.0, 0.001, 0.001, 0.002, 0.002],
    ],
)
def test_what_is_not_quantised_is_left_alone(at_s: list[float]) -> None:
    trace = arriving(at_s)
    assert spread(trace, 1) is trace


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"{MOONCAKE.name} is not beside the repository")
def test_mooncakes_ticks_of_three_seconds_are_found() -> None:
    trace = read_trace(MOONCAKE)
    moved = spread(trace, 1)
    assert len(np.unique(moved.arrival_s)) == trace.requests
    assert np.abs(moved.arrival_s - trace.arrival_s).max() < 3.01
    assert np.diff(moved.arrival_s).max() < 3.0
    assert spread(replace(moved, arrival_s=np.round(moved.arrival_s, 3)), 1).requests == trace.requests
