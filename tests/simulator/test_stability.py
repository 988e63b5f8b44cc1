"""Which queues count as stable."""

import numpy as np
import pytest

from kvtide_operator.simulate.stability import is_stable


def deterministic_server(arrival_s, service_s):
    """When each request begins, first come, first served."""
    begin_s = np.empty_like(arrival_s)
    free_s = 0.0
    for i, at_s in enumerate(arrival_s):
        begin_s[i] = max(at_s, free_s)
        free_s = begin_s[i] + service_s
    return begin_s


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_a_server_below_its_capacity_is_stable(load):
    verdicts = []
    for seed in range(40):
        arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1.0, 3000))
        verdicts.append(is_stable(arrival_s, deterministic_server(arrival_s, load)))
    assert sum(verdicts) >= 39  # the test may be wrong once in a hundred


@pytest.mark.parametrize("load", [1.15, 1.3, 3.0])
def test_a_server_above_its_capacity_is_not(load):
    for seed in range(20):
        arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1.0, 3000))
        assert not is_stable(arrival_s, deterministic_server(arrival_s, load))


def test_a_burst_that_is_worked_off_by_the_end_does_not_count():
    arrival_s = np.concatenate([np.linspace(0, 40, 400), np.linspace(40.1, 100, 60)])
    assert is_stable(arrival_s, deterministic_server(arrival_s, 0.2))


def test_a_queue_that_outlasts_the_trace_is_not_stable():
    arrival_s = np.concatenate([np.linspace(0, 99, 100), np.full(60, 99.5)])
    assert not is_stable(arrival_s, deterministic_server(arrival_s, 0.5))


def test_one_request_is_stable():
    assert is_stable(np.array([0.0]), np.array([0.0]))
    assert is_stable(np.array([0.0]), np.array([0.3]))
    assert is_stable(np.array([]), np.array([]))
