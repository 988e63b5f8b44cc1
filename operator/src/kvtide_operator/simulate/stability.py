"""Whether a queue is stable: an unstable one is a state, not a large latency."""

import numpy as np
from numpy.typing import NDArray

BATCHES = 64
"""Batch means over the last half of the arrivals: enough for a slope, few enough to be nearly independent."""
INSTANTS = 16
"""Instants at which the backlog is sampled for each batch mean."""
SIGNIFICANT = 2.33
"""Standard errors above zero at which a slope is taken for real: one-sided, 1 %."""
DRAIN_SHARE = 0.1
"""The queue must be empty within this share of the span after the last arrival."""


def is_stable(arrival_s: NDArray[np.float64], dispatch_s: NDArray[np.float64]) -> bool:
    """Whether the backlog, requests that arrived and were not dispatched, neither grows nor lasts.

    It grows if, over the last half of the arrivals, a straight line through its batch means rises by a
    request or more in all and by `SIGNIFICANT` standard errors or more, where the error counts only as many
    independent batches as the autocorrelation of the residuals leaves. It lasts if it outlives the arrivals
    by more than `DRAIN_SHARE` of their span.

    Args:
        arrival_s: float64[requests], ascending.
        dispatch_s: float64[requests], when each prefill began.
    """
    if len(arrival_s) < 2:  # one request waits for its own blocks at most
        return True
    first_s, last_s = float(arrival_s[0]), float(arrival_s[-1])
    if dispatch_s.max() > last_s + DRAIN_SHARE * (last_s - first_s):
        return False
    return first_s == last_s or not _grows(_backlog(arrival_s, dispatch_s, (first_s + last_s) / 2, last_s))


def _backlog(
    arrival_s: NDArray[np.float64], dispatch_s: NDArray[np.float64], begin_s: float, end_s: float
) -> NDArray[np.float64]:
    """float64[BATCHES]: mean number of requests waiting, in equal parts of an interval."""
    instants_s = np.linspace(begin_s, end_s, BATCHES * INSTANTS)
    arrived = np.searchsorted(arrival_s, instants_s, side="right")
    dispatched = np.searchsorted(np.sort(dispatch_s), instants_s, side="right")
    means: NDArray[np.float64] = (arrived - dispatched).reshape(BATCHES, INSTANTS).mean(axis=1)
    return means


def _grows(backlog: NDArray[np.float64]) -> bool:
    x = np.arange(BATCHES) - (BATCHES - 1) / 2
    slope = float(x @ backlog / (x @ x))
    if slope * BATCHES < 1:
        return False
    residual = backlog - backlog.mean() - slope * x
    squares = float(residual @ residual)
    if squares == 0:
        return True
    correlation = min(max(float(residual[1:] @ residual[:-1]) / squares, 0.0), 0.99)
    independent = max(BATCHES * (1 - correlation) / (1 + correlation), 3.0)
    error = (squares / (independent - 2) / float(x @ x) * BATCHES / independent) ** 0.5
    return slope > SIGNIFICANT * error
