"""Arrivals recorded in coarse ticks, spread out within them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.workload.trace import Trace

FINEST_TICK_S = 0.001
"""Milliseconds are what traces are written in: a tick this long is no quantisation."""
REQUESTS_PER_INSTANT = 2
"""Arrivals count as quantised when at least this many requests share an instant, in the mean."""
JITTER = 0.01
"""How far from a multiple of the tick an interval may be, in ticks. Mooncake's 3 s ticks are off by 3 ms."""


def spread(trace: Trace, seed: int) -> Trace:
    """Spread requests that share an instant uniformly over the tick that it stands for.

    In Mooncake's conversation trace ten requests share each tick of 3 s: played as they are, they would queue
    behind each other. Order is kept, so that hits are. A trace that is not quantised is returned unchanged.
    """
    instants_s, group = np.unique(trace.arrival_s, return_inverse=True)
    tick_s = _tick_s(instants_s, trace.requests)
    if tick_s is None:
        return trace
    room_s = np.minimum(np.diff(instants_s, append=np.inf), tick_s)
    within = np.random.default_rng(seed).random(trace.requests)
    arrival_s = trace.arrival_s + within[np.lexsort((within, group))] * room_s[group]
    return replace(trace, arrival_s=arrival_s - arrival_s[0])


def _tick_s(instants_s: NDArray[np.float64], requests: int) -> float | None:
    """Seconds of the tick that rising, distinct instants are multiples of; None if they are not quantised."""
    if len(instants_s) < 2 or requests < REQUESTS_PER_INSTANT * len(instants_s):
        return None
    intervals_s = np.diff(instants_s)
    tick_s = float(np.median(intervals_s))
    off = np.abs(intervals_s / tick_s - np.rint(intervals_s / tick_s))
    return (
        tick_s if tick_s > FINEST_TICK_S and off.max() <= JITTER and intervals_s.min() > tick_s / 2 else None
    )
