"""The non-dominated points of a set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.outcome import Candidate, objectives_of


def non_dominated(objectives: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[points]: which rows of ``objectives`` (float64[points, axes], minimised) no other row dominates.

    A row dominates another that it equals or betters on every axis and betters on one. Of equal rows the
    first is kept. Infinities compare as numbers.
    """
    assert not np.isnan(objectives).any()
    points, axes = objectives.shape
    # In lexicographic order no row dominates an earlier one; lexsort is stable, its last key leads.
    order = np.lexsort(objectives.T[::-1])
    kept_rows = np.empty((points, axes))
    kept = 0
    mask = np.zeros(points, dtype=np.bool_)
    for index in order:
        row = objectives[index]
        if not (kept_rows[:kept] <= row).all(axis=1).any():
            kept_rows[kept] = row
            kept += 1
            mask[index] = True
    return mask


def frontier(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The non-dominated stable candidates, cheapest first.

    Where none is stable latency means nothing: then the frontier is that of cost and throughput.
    """
    pool = [c for c in candidates if c.outcome.stable] or list(candidates)
    values = objectives_of(pool)
    if pool and not pool[0].outcome.stable:
        values = values[:, [0, 2]]
    kept = [candidate for candidate, keep in zip(pool, non_dominated(values), strict=True) if keep]
    return tuple(sorted(kept, key=lambda c: (c.outcome.cost_per_hour, c.outcome.ttft_mean_s)))
