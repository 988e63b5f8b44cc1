"""Hit ratio against capacity, for every capacity at once."""

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.simulate.cache.stack_distance import NEVER, stack_distances
from kvtide_operator.workload.trace import Trace


def hit_curve(
    trace: Trace, distances: NDArray[np.int32] | None = None, *, first_request: int = 0
) -> HitCurve:
    """The exact curve of a trace, weights included.

    A block counts as hit only if all blocks before it in its request hit too, as an engine can use nothing
    behind a missing block: block j hits in C blocks if and only if the largest stack distance of the
    request's blocks 0 to j is at most C. A request's blocks are accessed root first, the missing ones by
    being stored.

    Args:
        trace: the requests; without blocks the curve is 0 everywhere.
        distances: the stack distances of ``trace.blocks`` if the caller has them.
        first_request: requests before this one fill the cache and count in no ratio.
    """
    if distances is None:
        distances = stack_distances(trace.blocks, trace.unique_blocks)
    reach = _reach(distances, trace.block_start)
    weight = np.repeat(trace.weight, np.diff(trace.block_start))
    weight[: trace.block_start[first_request]] = 0.0
    hit = reach != NEVER
    gained = np.bincount(reach[hit], weights=weight[hit])
    capacity_blocks = np.flatnonzero(gained)
    requested = weight.sum() or 1.0
    return HitCurve(capacity_blocks, np.cumsum(gained[capacity_blocks]) / requested)


def _reach(distances: NDArray[np.int32], block_start: NDArray[np.int64]) -> NDArray[np.int32]:
    """The running maximum of distances within each request, blocks."""
    request = np.repeat(np.arange(len(block_start) - 1), np.diff(block_start))
    # Adding a step per request that exceeds every distance makes one running maximum start anew in each.
    raised = distances + request * (int(NEVER) + 1)
    reach: NDArray[np.int32] = (np.maximum.accumulate(raised) - request * (int(NEVER) + 1)).astype(np.int32)
    return reach
