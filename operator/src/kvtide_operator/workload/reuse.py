"""Reuse in a trace: how much, how soon, how concentrated, how long blocks live."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.workload.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Reuse:
    """How a trace's blocks are asked for again, whatever a cache would do.

    Attributes:
        gap_s: float64[reuses], seconds since the previous request for the same block.
        lifespan_s: float64[unique blocks], seconds from the first request for a block to the last.
        reuses: int64[unique blocks], how often each block was asked for again.
        infinite_hit_ratio: blocks hit over blocks requested with room for all; 0 without blocks.
    """

    gap_s: NDArray[np.float64]
    lifespan_s: NDArray[np.float64]
    reuses: NDArray[np.int64]
    infinite_hit_ratio: float

    def top_share(self, hits: float) -> float:
        """The smallest share of the unique blocks that gives this share of all reuses."""
        falling = np.cumsum(np.sort(self.reuses)[::-1])
        if not len(falling) or not falling[-1]:
            return 0.0
        return float(np.searchsorted(falling, hits * falling[-1]) + 1) / len(falling)


def measure_reuse(trace: Trace) -> Reuse:
    """Measure a trace; weights count in the hit ratio alone."""
    lengths = np.diff(trace.block_start)
    at_s = np.repeat(trace.arrival_s, lengths)
    order = np.argsort(trace.blocks, kind="stable")
    block, time = trace.blocks[order], at_s[order]
    again = np.flatnonzero(block[1:] == block[:-1]) + 1
    count = np.bincount(trace.blocks, minlength=trace.unique_blocks)
    end = np.cumsum(count)
    return Reuse(
        gap_s=time[again] - time[again - 1],
        lifespan_s=time[end - 1] - time[end - count],
        reuses=count - 1,
        infinite_hit_ratio=_infinite_hit_ratio(trace, order[end - count], lengths),
    )


def _infinite_hit_ratio(trace: Trace, first_accesses: NDArray[np.int64], lengths: NDArray[np.int64]) -> float:
    """Weighted share of accesses with no first access at or before them in their request."""
    new = np.zeros(len(trace.blocks) + 1, dtype=np.int64)
    new[first_accesses + 1] = 1
    seen = np.cumsum(new)
    hit = seen[1:] == np.repeat(seen[trace.block_start[:-1]], lengths)
    weight = np.repeat(trace.weight, lengths)
    requested = weight.sum()
    return float(weight[hit].sum() / requested) if requested else 0.0
