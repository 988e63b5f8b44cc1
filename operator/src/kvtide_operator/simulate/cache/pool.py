"""The tiers whose content does not depend on an SSD: each engine's GPU cache and the DRAM they share.

Every block of a request ends up most recently used whether it was hit or computed, so what DRAM holds, and
what it demotes when, follows from the order of requests alone. DRAM is used root first, as cache nodes see
it; an engine frees a request's blocks leaf first, as vLLM and SGLang do, so that prefixes outlive leaves.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_cachenode.placement.ssd_writes import REUSED, TOUCHED_TWICE
from kvtide_operator.simulate.cache.lru import NEWER, Links, append, empty_lists, present, unlink
from kvtide_operator.simulate.requests import Requests, Rows

Offload = Literal["writeThrough", "onEvict", "selective"]
Routing = Literal["roundRobin", "prefixAffine"]
_WRITE_THROUGH, _ON_EVICT, _SELECTIVE = range(3)

_SEEN = 4
"""Beside the bits of a demotion's worth: requested before."""

AFFINE_SHARE = 0.5
"""A request follows its prefix to an engine that holds at least this share of its blocks, as with SGLang's
router."""
LOAD_BOUND = 1.25
"""An engine is passed over once its tokens exceed this multiple of the mean: consistent hashing with bounded
loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018)."""

TIER = np.dtype([("held", "i8"), ("capacity", "i8"), ("routed_tokens", "i8"), ("demotions", "i8")])
"""Blocks held and capacity; for a GPU cache the tokens sent to its engine, for DRAM how often it demoted."""
DEMOTION = np.dtype([("block", "i4"), ("worth", "u1")])
"""A block that left DRAM, and its `TOUCHED_TWICE` and `REUSED`."""


class Pool(NamedTuple):
    """The state of both tiers.

    Attributes:
        offload: when blocks go from the GPU to DRAM: 0 writeThrough, 1 onEvict, 2 selective.
        affine: whether requests follow their prefix; else engines take turns.
        device: int32[engines, blocks + 1, 2], the LRU list of each GPU cache.
        dram: int32[blocks + 1, 2], the LRU list of DRAM.
        tier: `TIER`[engines + 1], each GPU cache and last DRAM.
        worth: uint8[blocks], the bits a block would be demoted with.
        in_dram: bool[accesses], whether DRAM held the block when it was last looked up.
        demoted: `DEMOTION`[accesses], in order.
    """

    offload: int
    affine: bool
    device: NDArray[np.int32]
    dram: Links
    tier: Rows
    worth: NDArray[np.uint8]
    in_dram: NDArray[np.bool_]
    demoted: Rows


def empty_pool(
    requests: Requests,
    instances: int,
    device_blocks: int,
    dram_blocks: int,
    offload: Offload,
    routing: Routing,
) -> Pool:
    """A pool before the first request. Without a GPU cache DRAM comes first, and every block goes there."""
    blocks = len(requests.successor)
    insertions = len(requests.blocks) + int(requests.row.output_blocks.sum())
    tier: Rows = np.zeros(instances + 1, dtype=TIER).view(np.recarray)
    tier.capacity = device_blocks
    tier[-1].capacity = dram_blocks
    return Pool(
        offload=get_args(Offload).index(offload) if device_blocks else _WRITE_THROUGH,
        affine=routing == "prefixAffine",
        device=np.stack([empty_lists(blocks)] * instances),
        dram=empty_lists(blocks),
        tier=tier,
        worth=np.zeros(blocks, dtype=np.uint8),
        in_dram=np.zeros(len(requests.blocks), dtype=np.bool_),
        demoted=np.empty(insertions, dtype=DEMOTION).view(np.recarray),
    )


@njit(cache=True)
def _leading(links: Links, blocks: NDArray[np.int32], first: int, last: int) -> int:
    """How many of ``blocks[first:last]`` the list holds before the first that it does not."""
    at = first
    while at < last and present(links, blocks[at]):
        at += 1
    return at - first


@njit(cache=True)
def route(pool: Pool, requests: Requests, request: int) -> int:
    """Choose the engine that serves ``request``.

    By what GPU caches would hold if nothing queued: near to what SGLang's router takes them to hold, a tree
    for each engine of the prompts that it sent there.
    """
    row, tier = requests.row[request], pool.tier
    engines = len(tier) - 1
    chosen = request % engines
    if pool.affine:
        longest, holder, idlest, routed_tokens = 0, 0, 0, row.input_tokens
        for k in range(engines):
            held = _leading(pool.device[k], requests.blocks, row.start, row.start + row.hittable)
            if held > longest:
                longest, holder = held, k
            if tier[k].routed_tokens < tier[idlest].routed_tokens:
                idlest = k
            routed_tokens += tier[k].routed_tokens
        follows = longest > 0 and longest >= AFFINE_SHARE * row.hittable
        bounded = tier[holder].routed_tokens * engines <= LOAD_BOUND * routed_tokens
        chosen = holder if follows and bounded else idlest
    tier[chosen].routed_tokens += row.input_tokens
    row.engine = chosen
    return chosen


@njit(cache=True)
def look_up(pool: Pool, requests: Requests, request: int) -> None:
    """Note which blocks of ``request`` its engine and DRAM hold now."""
    row, blocks = requests.row[request], requests.blocks
    dram, in_dram = pool.dram, pool.in_dram
    first, last = row.start, row.start + row.hittable
    row.device_hits = _leading(pool.device[row.engine], blocks, first, last)
    for at in range(first, last):
        in_dram[at] = present(dram, blocks[at])


@njit(cache=True)
def insert(pool: Pool, k: int, blocks: NDArray[np.int32]) -> None:
    """Make ``blocks``, root first, the most recently used ones of engine ``k`` and of DRAM."""
    store(pool, k, blocks)
    cache(pool, k, blocks)


@njit(cache=True)
def store(pool: Pool, k: int, blocks: NDArray[np.int32]) -> None:
    """The DRAM's part of `insert`, which comes first."""
    device, dram = pool.device[k], pool.dram
    offload, tier, worth, demoted = pool.offload, pool.tier, pool.worth, pool.demoted
    for block in blocks:
        in_dram = present(dram, block)
        known = in_dram or present(device, block)
        worth[block] = (REUSED if known else 0) | (TOUCHED_TWICE if worth[block] & _SEEN else 0) | _SEEN
        if offload == _WRITE_THROUGH or (offload == _SELECTIVE and known):
            _keep(dram, tier, worth, demoted, block)
        elif in_dram and offload == _ON_EVICT:
            unlink(dram, block)
            tier[-1].held -= 1


@njit(cache=True)
def cache(pool: Pool, k: int, blocks: NDArray[np.int32]) -> None:
    """The GPU cache's part of `insert`."""
    device, tier = pool.device[k], pool.tier
    if tier[k].capacity == 0:
        return
    for at in range(len(blocks) - 1, -1, -1):
        evicted = _use(device, tier[k], blocks[at])
        if evicted >= 0 and pool.offload == _ON_EVICT:
            _keep(pool.dram, tier, pool.worth, pool.demoted, evicted)


@njit(cache=True, inline="always")
def _use(links: Links, tier: Rows, block: int) -> int:
    """Make ``block`` the most recently used of a tier; returns the block that no longer fits, or -1."""
    head = len(links) - 1
    if present(links, block):
        unlink(links, block)
        append(links, head, block)
        return -1
    append(links, head, block)
    if tier.held < tier.capacity:
        tier.held += 1
        return -1
    victim = links[head, NEWER]
    unlink(links, victim)
    return victim


@njit(cache=True, inline="always")
def _keep(dram: Links, tier: Rows, worth: NDArray[np.uint8], demoted: Rows, block: int) -> None:
    """Make ``block`` the most recently used one of DRAM; what no longer fits is demoted."""
    # Without any room the block itself is the victim.
    victim = _use(dram, tier[-1], block)
    if victim >= 0:
        _note(tier, worth, demoted, victim)


@njit(cache=True, inline="always")
def _note(tier: Rows, worth: NDArray[np.uint8], demoted: Rows, victim: int) -> None:
    """``victim`` is demoted."""
    demotion = demoted[tier[-1].demotions]
    demotion.block = victim
    demotion.worth = worth[victim] & (TOUCHED_TWICE | REUSED)
    tier[-1].demotions += 1


@njit(cache=True)
def resize_dram(pool: Pool, capacity_blocks: int) -> None:
    """Give DRAM another capacity; what no longer fits is demoted."""
    dram, tier = pool.dram, pool.tier
    head = len(dram) - 1
    tier[-1].capacity = capacity_blocks
    while tier[-1].held > capacity_blocks:
        victim = dram[head, NEWER]
        unlink(dram, victim)
        tier[-1].held -= 1
        _note(tier, pool.worth, pool.demoted, victim)
