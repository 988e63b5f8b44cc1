"""One pass over a trace per DRAM size: what the GPU caches and DRAM hit, and what DRAM demotes when.

None of it depends on the SSD: a block read back from there and one that is computed anew both become the
most recently used of DRAM. So one pass serves every TTL, class and number of volumes.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.simulate.pool import Pool, insert, look_up, route
from kvtide_operator.simulate.requests import Requests, Rows, answer_of, prompt_of


@dataclass(frozen=True, slots=True, eq=False)
class CachePass:
    """What happened above the SSD, with requests looked up and inserted in order of arrival.

    Attributes:
        requests: with `engine`, `device_hits`, `demoted_start` and `demoted_end` filled in.
        pool: the tiers afterwards, without their lists; `in_dram` and `demoted` tell what happened.
        demoted_s: float64[demotions], the arrival of the request that displaced the block.
        next_demotion: int64[demotions], the place of the same block's next demotion, -1 for the last.
    """

    requests: Requests
    pool: Pool
    demoted_s: NDArray[np.float64]
    next_demotion: NDArray[np.int64]


def cache_pass(requests: Requests, pool: Pool) -> CachePass:
    """Play requests, which are changed, through an empty pool."""
    _play(requests, pool)
    row, demoted = requests.row, pool.demoted[: pool.tier.demotions[-1]].copy()
    blocks = len(requests.successor)
    return CachePass(
        requests=requests,
        pool=pool._replace(
            device=pool.device[:, blocks:].copy(), dram=pool.dram[blocks:].copy(), demoted=demoted
        ),
        demoted_s=np.repeat(row.arrival_s, row.demoted_end - row.demoted_start),
        next_demotion=_next_demotions(demoted, blocks),
    )


@njit(cache=True)
def _play(requests: Requests, pool: Pool) -> None:
    for request in range(len(requests.row)):
        row = requests.row[request]
        k = route(pool, requests, request)
        look_up(pool, requests, request)
        row.demoted_start = pool.tier[-1].demotions
        insert(pool, k, prompt_of(requests, request))
        if row.output_blocks > 0:
            insert(pool, k, answer_of(requests, request))
        row.demoted_end = pool.tier[-1].demotions


@njit(cache=True)
def _next_demotions(demoted: Rows, blocks: int) -> NDArray[np.int64]:
    following = np.full(blocks, -1, dtype=np.int64)
    result = np.empty(len(demoted), dtype=np.int64)
    for at in range(len(demoted) - 1, -1, -1):
        block = demoted[at].block
        result[at] = following[block]
        following[block] = at
    return result


def miss_gaps(passed: CachePass) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The TTL that each access beyond DRAM would have needed.

    Returns:
        Places in the requests' blocks (int64[misses]) of accesses that neither the GPU cache nor DRAM hit,
        and the seconds since the block's last demotion (float64[misses]; infinite if it never was demoted).
    """
    places, gaps_s = _miss_gaps(passed.requests, passed.pool.in_dram, passed.pool.demoted)
    return places, gaps_s


@njit(cache=True)
def _miss_gaps(
    requests: Requests, in_dram: NDArray[np.bool_], demoted: Rows
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    demoted_s = np.full(len(requests.successor), -np.inf)
    places = np.empty(len(requests.blocks), dtype=np.int64)
    gaps_s = np.empty(len(requests.blocks), dtype=np.float64)
    count = 0
    for row in requests.row:
        for at in range(row.start + row.device_hits, row.start + row.hittable):
            if not in_dram[at]:
                places[count] = at
                gaps_s[count] = row.arrival_s - demoted_s[requests.blocks[at]]
                count += 1
        for at in range(row.demoted_start, row.demoted_end):
            demoted_s[demoted[at].block] = row.arrival_s
    return places[:count].copy(), gaps_s[:count].copy()
