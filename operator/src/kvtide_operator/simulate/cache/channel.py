"""The way to and from the SSD: first come, first served, at a fixed bandwidth.

A job is a read for one request or a batch of writes, measured in the seconds it takes. A medium with a
shared channel has one lane for both; others have a lane for reads and one for writes.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from kvtide_operator.simulate.requests import NOBODY, Requests, Rows

READS = 0
JOBS_PER_REQUEST = 3
"""A read, the writes when its prompt is inserted, and those when its answer is."""

JOB = np.dtype([("left_s", "f8"), ("request", "i8")])
"""Seconds a job still needs, and whom a read is for; `NOBODY` for writes."""
LANE = np.dtype(
    [
        ("clock_s", "f8"),
        ("backlog_s", "f8"),
        ("writes_s", "f8"),
        ("busy_s", "f8"),
        ("first", "i8"),
        ("end", "i8"),
    ]
)
"""How far a lane was played, seconds queued in all and for writes, seconds busy so far, and its queue: the
first job not done and the end."""


class Channel(NamedTuple):
    """Lanes with their queues of jobs.

    Attributes:
        job: `JOB`[lanes, jobs].
        lane: `LANE`[lanes].
    """

    job: Rows
    lane: Rows


def idle_channel(requests: int, *, shared: bool) -> Channel:
    """A channel with nothing queued, with room for every job that so many requests can make."""
    lanes = 1 if shared else 2
    return Channel(
        job=np.zeros((lanes, JOBS_PER_REQUEST * requests), dtype=JOB).view(np.recarray),
        lane=np.zeros(lanes, dtype=LANE).view(np.recarray),
    )


@njit(cache=True, forceinline=True)
def _play(channel: Channel, requests: Requests, number: int, now_s: float) -> None:
    """Work off a lane's queue until ``now_s``."""
    lane = channel.lane[number]
    while lane.first < lane.end and lane.clock_s < now_s:
        job = channel.job[number, lane.first]
        done_s = min(job.left_s, now_s - lane.clock_s)
        job.left_s -= done_s
        lane.clock_s += done_s
        lane.backlog_s -= done_s
        lane.busy_s += done_s
        if job.request == NOBODY:
            lane.writes_s -= done_s
        else:
            requests.row[job.request].read_s += done_s
        if job.left_s <= 0.0:
            lane.first += 1
    lane.clock_s = now_s
    if lane.first == lane.end:  # rounding must leave nothing queued
        lane.backlog_s = lane.writes_s = 0.0


@njit(cache=True, forceinline=True)
def _enqueue(channel: Channel, number: int, request: int, seconds: float) -> int:
    lane = channel.lane[number]
    place = lane.end
    job = channel.job[number, place]
    job.left_s = seconds
    job.request = request
    lane.end = place + 1
    lane.backlog_s += seconds
    return place


@njit(cache=True, forceinline=True)
def read_wait_s(channel: Channel, requests: Requests, now_s: float) -> float:
    """Seconds until a read that is queued now would begin."""
    _play(channel, requests, READS, now_s)
    return channel.lane[READS].backlog_s


@njit(cache=True, forceinline=True)
def start_read(channel: Channel, requests: Requests, request: int, seconds: float, now_s: float) -> None:
    """Queue a read of ``seconds`` for ``request``."""
    _play(channel, requests, READS, now_s)
    requests.row[request].read_job = _enqueue(channel, READS, request, seconds)


@njit(cache=True, forceinline=True)
def stop_read(channel: Channel, requests: Requests, request: int, now_s: float) -> float:
    """Give up what is left of a request's read; returns the seconds of it that were done."""
    row = requests.row[request]
    if row.read_job == NOBODY:
        return 0.0
    _play(channel, requests, READS, now_s)
    job = channel.job[READS, row.read_job]
    channel.lane[READS].backlog_s -= job.left_s
    job.left_s = 0.0
    return row.read_s


@njit(cache=True, forceinline=True)
def queued_writes_s(channel: Channel, requests: Requests, now_s: float) -> float:
    """Seconds of writes that are queued."""
    _play(channel, requests, len(channel.lane) - 1, now_s)
    return channel.lane[-1].writes_s


@njit(cache=True, forceinline=True)
def start_write(channel: Channel, seconds: float) -> None:
    """Queue writes of ``seconds``; `queued_writes_s` has brought the lane up to now."""
    _enqueue(channel, len(channel.lane) - 1, NOBODY, seconds)
    channel.lane[-1].writes_s += seconds


@njit(cache=True, forceinline=True)
def busy_s(channel: Channel, requests: Requests, now_s: float) -> float:
    """Seconds that the busiest lane has worked until ``now_s``."""
    busiest = 0.0
    for number in range(len(channel.lane)):
        _play(channel, requests, number, now_s)
        busiest = max(busiest, channel.lane[number].busy_s)
    return busiest
