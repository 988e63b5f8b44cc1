"""What reaches the SSD of one DRAM size: every demotion, and when its block is asked for again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.cache.passes import CachePass, misses


@dataclass(frozen=True, slots=True, eq=False)
class MissStream:
    """One row per demotion, in order of time.

    Attributes:
        block: int32[rows].
        request: int64[rows], the request that displaced the block.
        demoted_s: float64[rows].
        hold_s: float64[rows], how long a copy is held at most: to the block's next demotion, which stamps it
            anew, or to the horizon.
        reuse_s: float64[rows], from the demotion to the first request that misses the GPU cache and DRAM on
            the block; infinite where none does. A copy that is still there then is a hit.
        miss_row: int64[misses], one per access that only an SSD could hit: the demotion whose copy that
            would be, -1 where the block never was demoted.
        miss_gap_s: float64[misses], since that demotion; infinite where there was none.
        miss_request: int64[misses], whose request it is.
        miss_depth: int64[misses], the blocks before it in its request.
        hittable: int64[requests], leading blocks that may be hit.
    """

    block: NDArray[np.int32]
    request: NDArray[np.int64]
    demoted_s: NDArray[np.float64]
    hold_s: NDArray[np.float64]
    reuse_s: NDArray[np.float64]
    miss_row: NDArray[np.int64]
    miss_gap_s: NDArray[np.float64]
    miss_request: NDArray[np.int64]
    miss_depth: NDArray[np.int64]
    hittable: NDArray[np.int64]


def miss_stream(passed: CachePass) -> MissStream:
    """The stream of one cache pass; holds are censored when all requests have arrived and are inserted."""
    asked, demoted = passed.requests.row, passed.pool.demoted.block
    horizon_s = max(asked.arrival_s.max(initial=0.0), asked.inserted_s.max(initial=0.0))
    next_demoted_s = np.full(len(demoted), horizon_s)
    again = passed.next_demotion >= 0
    next_demoted_s[again] = passed.demoted_s[passed.next_demotion[again]]

    place, row = misses(passed)
    asked_by = np.searchsorted(asked.start, place, side="right") - 1
    gap_s = np.full(len(row), np.inf)
    copied = row >= 0
    gap_s[copied] = asked.arrival_s[asked_by[copied]] - passed.demoted_s[row[copied]]
    # Only the first request after a demotion counts: it brings the block back above the SSD.
    first_row, first_miss = np.unique(row, return_index=True)
    of_copy = first_row >= 0
    reuse_s = np.full(len(demoted), np.inf)
    reuse_s[first_row[of_copy]] = gap_s[first_miss[of_copy]]
    return MissStream(
        block=demoted,
        request=passed.displaced_by,
        demoted_s=passed.demoted_s,
        hold_s=next_demoted_s - passed.demoted_s,
        reuse_s=reuse_s,
        miss_row=row,
        miss_gap_s=gap_s,
        miss_request=asked_by,
        miss_depth=place - asked.start[asked_by],
        hittable=asked.hittable.copy(),
    )


def prefix_hits(stream: MissStream, row_ttl_s: NDArray[np.float64], from_request: int = 0) -> int:
    """Blocks hit with prefix continuity, GPU cache and DRAM included, if demotion i is kept ``row_ttl_s[i]``.

    A block counts only if every block before it in its request is there too, and the SSD has room for
    whatever the TTLs keep.

    Args:
        stream: the misses.
        row_ttl_s: float64[rows].
        from_request: count the hits of this request and later ones.
    """
    copied = stream.miss_row >= 0
    kept = np.zeros(len(copied), dtype=np.bool_)
    kept[copied] = stream.miss_gap_s[copied] <= row_ttl_s[stream.miss_row[copied]]
    hits = stream.hittable.copy()
    np.minimum.at(hits, stream.miss_request[~kept], stream.miss_depth[~kept])
    return int(hits[from_request:].sum())
