"""The SSD channel, job by job."""

import numpy as np
import pytest

from kvtide_operator.simulate.cache.channel import (
    busy_s,
    idle_channel,
    queued_writes_s,
    read_wait_s,
    start_read,
    start_write,
    stop_read,
)
from kvtide_operator.simulate.requests import requests_of


@pytest.fixture
def requests(make_trace):
    return requests_of(make_trace([(0.0, 100, 1, [0])] * 3), "mooncake")


def test_jobs_are_done_in_order(requests):
    channel = idle_channel(3, shared=True)
    start_read(channel, requests, 0, 2.0, 0.0)
    assert queued_writes_s(channel, requests, 0.5) == 0.0
    start_write(channel, 4.0)
    assert read_wait_s(channel, requests, 1.0) == pytest.approx(1.0 + 4.0)
    start_read(channel, requests, 1, 3.0, 1.0)
    assert queued_writes_s(channel, requests, 3.0) == pytest.approx(3.0)
    assert stop_read(channel, requests, 0, 3.0) == 2.0
    assert stop_read(channel, requests, 1, 7.5) == pytest.approx(1.5)
    assert read_wait_s(channel, requests, 7.5) == 0.0
    assert busy_s(channel, requests, 20.0) == pytest.approx(2.0 + 4.0 + 1.5)


def test_what_is_given_up_leaves_its_place_to_those_behind(requests):
    channel = idle_channel(3, shared=True)
    start_read(channel, requests, 0, 5.0, 0.0)
    start_read(channel, requests, 1, 5.0, 0.0)
    assert stop_read(channel, requests, 0, 1.0) == 1.0
    assert stop_read(channel, requests, 1, 4.0) == pytest.approx(3.0)
    assert stop_read(channel, requests, 2, 4.0) == 0.0  # never asked for


def test_two_lanes_do_not_wait_for_each_other(requests):
    channel = idle_channel(3, shared=False)
    assert queued_writes_s(channel, requests, 0.0) == 0.0
    start_write(channel, 4.0)
    assert read_wait_s(channel, requests, 1.0) == 0.0
    start_read(channel, requests, 0, 2.0, 1.0)
    assert busy_s(channel, requests, 10.0) == pytest.approx(4.0)


def test_nothing_is_left_of_many_small_jobs(requests):
    channel = idle_channel(1000, shared=True)
    now_s = 0.0
    for seconds in np.random.default_rng(3).random(2000):
        queued_writes_s(channel, requests, now_s)
        start_write(channel, seconds)
        now_s += seconds
    assert queued_writes_s(channel, requests, now_s + 1e-6) == 0.0
    assert read_wait_s(channel, requests, now_s + 1e-6) == 0.0
