"""One pass over a trace per DRAM size: what the GPU caches and DRAM hit, and what DRAM demotes when.

None of it depends on the SSD: a block read back from there and one that is computed anew both become the
most recently used of DRAM. So one pass serves every TTL, class and number of volumes. The pass knows no
queues: a request is looked up when it arrives and inserted once an idle engine has computed what neither its
GPU cache nor DRAM holds. Requests that arrive in between do not find it, which decides a hit in a hundred.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.simulate.cache.pool import Pool, insert, look_up, route
from kvtide_operator.simulate.engine.step_times import Curve, StepTables, Surface, prefill_s, step_tables
from kvtide_operator.simulate.requests import Requests, Rows, answer_of, prompt_of

_ENDS = np.array([0.0, 1.0])
INSTANT = step_tables(
    Curve(_ENDS, np.zeros(2)),
    Surface(_ENDS, _ENDS, np.zeros((2, 2))),
    Surface(_ENDS, _ENDS, np.zeros((2, 2))),
)
"""Step times of an engine that takes none: the order of arrival alone decides."""


@dataclass(frozen=True, slots=True, eq=False)
class CachePass:
    """What happened above the SSD.

    Attributes:
        requests: with everything from `engine` to `demoted_end` filled in.
        pool: the tiers afterwards, without their lists; `in_dram` and `demoted` tell what happened.
        displaced_by: int64[demotions], the request that displaced the block.
        demoted_s: float64[demotions], rising, when that request was inserted.
        next_demotion: int64[demotions], the place of the same block's next demotion, -1 for the last.
    """

    requests: Requests
    pool: Pool
    displaced_by: NDArray[np.int64]
    demoted_s: NDArray[np.float64]
    next_demotion: NDArray[np.int64]


def cache_pass(
    requests: Requests, pool: Pool, tables: StepTables = INSTANT, chunk_tokens: int = 1
) -> CachePass:
    """Play requests, which are changed, through an empty pool.

    Args:
        requests: in order of arrival.
        pool: the tiers.
        tables: step times of an engine.
        chunk_tokens: tokens that a step computes at most.
    """
    _play(requests, pool, tables, chunk_tokens)
    row, demoted = requests.row, pool.demoted[: pool.tier.demotions[-1]].copy()
    blocks = len(requests.successor)
    inserted = np.argsort(row.inserted_s, kind="stable")
    displaced_by = np.repeat(inserted, (row.demoted_end - row.demoted_start)[inserted])
    return CachePass(
        requests=requests,
        pool=pool._replace(
            device=pool.device[:, blocks:].copy(), dram=pool.dram[blocks:].copy(), demoted=demoted
        ),
        displaced_by=displaced_by,
        demoted_s=row.inserted_s[displaced_by],
        next_demotion=_next_demotions(demoted, blocks),
    )


@njit(cache=True)
def _play(requests: Requests, pool: Pool, tables: StepTables, chunk_tokens: int) -> None:
    computing = [(np.inf, -1)]  # a heap of (when it is inserted, request), and an end
    for request in range(len(requests.row)):
        row = requests.row[request]
        while computing[0][0] <= row.arrival_s:
            _insert(requests, pool, heappop(computing)[1])
        route(pool, requests, request)
        look_up(pool, requests, request)
        row.demotions_before = pool.tier[-1].demotions
        tokens = max(row.input_tokens, 1)
        cached = min(_found(requests, pool, request) * requests.block_tokens, tokens - 1)
        row.inserted_s = row.arrival_s + prefill_s(tables, cached, tokens, chunk_tokens)
        heappush(computing, (row.inserted_s, request))
    while len(computing) > 1:
        _insert(requests, pool, heappop(computing)[1])


@njit(cache=True)
def _found(requests: Requests, pool: Pool, request: int) -> int:
    """Leading blocks that the GPU cache or DRAM held at the look-up."""
    row = requests.row[request]
    at, end = row.start + row.device_hits, row.start + row.hittable
    while at < end and pool.in_dram[at]:
        at += 1
    return at - row.start


@njit(cache=True)
def _insert(requests: Requests, pool: Pool, request: int) -> None:
    row = requests.row[request]
    row.demoted_start = pool.tier[-1].demotions
    insert(pool, row.engine, prompt_of(requests, request))
    if row.output_blocks > 0:
        insert(pool, row.engine, answer_of(requests, request))
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


def misses(passed: CachePass) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The accesses beyond DRAM, and the copy on SSD that each could hit.

    Returns:
        Places in the requests' blocks (int64[misses]) of accesses that neither the GPU cache nor DRAM hit,
        and the block's last demotion before (int64[misses]; -1 if it never was demoted).
    """
    places, last_demotions = _misses(passed.requests, passed.pool.in_dram, passed.pool.demoted)
    return places, last_demotions


@njit(cache=True)
def _misses(
    requests: Requests, in_dram: NDArray[np.bool_], demoted: Rows
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    last = np.full(len(requests.successor), -1, dtype=np.int64)
    places = np.empty(len(requests.blocks), dtype=np.int64)
    last_demotions = np.empty(len(requests.blocks), dtype=np.int64)
    count = seen = 0
    for row in requests.row:
        while seen < row.demotions_before:
            last[demoted[seen].block] = seen
            seen += 1
        for at in range(row.start + row.device_hits, row.start + row.hittable):
            if not in_dram[at]:
                places[count] = at
                last_demotions[count] = last[requests.blocks[at]]
                count += 1
    return places[:count].copy(), last_demotions[:count].copy()
