"""Requests, engines and tiers in time: what each request finds, when it starts and when it is done.

Two sources of truth for what DRAM and the GPU caches hold. In the coupled mode they are looked up when a
request is admitted and filled when its prefill finishes, or, where loads are asynchronous, DRAM at the end of
each step; else `cache_pass` has said so, and what a request displaces goes to the SSD when its prefill
finishes. What lies below DRAM is played in time in both, and both take from `cache_pass` which engine serves
a request: routers see no queues either. Ties: arrivals before steps, engines by number, sequences by step,
then by request.

All that runs in time is inlined into `serve`: numba counts a reference for every array that a call passes on,
which took half of the time.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.simulate.batch import Batch, admitted, begin, finished, load, prefilled
from kvtide_operator.simulate.cache.channel import (
    Channel,
    queued_writes_s,
    read_wait_s,
    start_read,
    start_write,
    stop_read,
)
from kvtide_operator.simulate.cache.pool import Pool, cache, look_up, resize_dram, store
from kvtide_operator.simulate.cache.ssd import HELD, Ssd, demote, holds
from kvtide_operator.simulate.engine.step_times import prefill_chunk_s
from kvtide_operator.simulate.requests import NOBODY, Requests, Rows, answer_of, prompt_of
from kvtide_operator.simulate.steps import arrive, elapse, launch

Reload = Literal["queueing", "async"]
Loading = Literal["layered", "async"]
LOOKUP_S = 1e-3
"""Seconds of a look-up that runs beside the steps: less than any of them takes, so that what counts is the
wait for a step's end."""
_ROUNDING = 1e-9


class Transfers(NamedTuple):
    """How fast blocks move.

    Attributes:
        load_s: seconds to load a block from DRAM to the GPU.
        read_s: seconds to read a block from SSD.
        write_s: seconds to write a block to SSD.
        latency_s: seconds before the first block of a read.
        write_queue_s: seconds of writes that may be queued.
    """

    load_s: float
    read_s: float
    write_s: float
    latency_s: float
    write_queue_s: float


class Simulation(NamedTuple):
    """Everything that changes with time, and the rules it changes by.

    Attributes:
        coupled: whether DRAM and the GPU caches are played in time.
        has_ssd: whether there is an SSD.
        loads_async: look-ups and loads from DRAM run beside other requests' steps.
        while_queued: SSD reads happen only while a request waits (SGLang); else asynchronously (vLLM).
    """

    requests: Requests
    batch: Batch
    pool: Pool
    ssd: Ssd
    channel: Channel
    transfers: Transfers
    coupled: bool
    has_ssd: bool
    loads_async: bool
    while_queued: bool


@njit(cache=True)
def serve(run: Simulation) -> None:
    """Serve all requests."""
    row, batch, coupled = run.requests.row, run.batch, run.coupled
    engine = batch.engine
    # A bare 0 is a type of its own to numba, and would compile everything twice.
    arrived: Any = np.int64(0)
    while True:
        k = _next_engine(engine.clock_s)
        if arrived < len(row) and row[arrived].arrival_s <= engine[k].clock_s:
            _arrive(run, arrived)
            arrived += 1
            continue
        if engine[k].clock_s == np.inf:
            return
        elapse(batch, k)
        if coupled and run.loads_async and engine[k].partial != NOBODY:
            _store(run, k, engine[k].partial, engine[k].done_tokens // run.requests.block_tokens)
        request = prefilled(batch, k)
        while request != NOBODY:
            if coupled:
                _store(run, k, request, row[request].kept)
                _cache(run, k, prompt_of(run.requests, request))
            else:
                _displace(run, k, request)
            request = prefilled(batch, k)
        request = finished(batch, k)
        while request != NOBODY:
            if coupled and row[request].output_blocks > 0:
                answer = answer_of(run.requests, request)
                _store_blocks(run, k, answer)
                _cache(run, k, answer)
            request = finished(batch, k)
        request = admitted(batch, k)
        while request != NOBODY:
            _admit(run, k, request)
            request = admitted(batch, k)
        launch(batch, k)


@njit(cache=True, forceinline=True)
def _next_engine(clock_s: NDArray[np.float64]) -> int:
    """The engine whose steps end first."""
    best = 0
    for k in range(1, len(clock_s)):
        if clock_s[k] < clock_s[best]:
            best = k
    return best


@njit(cache=True, forceinline=True)
def _arrive(run: Simulation, request: int) -> None:
    requests, transfers = run.requests, run.transfers
    row = requests.row[request]
    if run.has_ssd and run.while_queued:
        if run.coupled:
            look_up(run.pool, requests, request)
        _, _, on_ssd = _prefix(requests, run.pool, run.ssd, request, row.arrival_s, row.hittable)
        if on_ssd > 0:
            seconds = transfers.latency_s + on_ssd * transfers.read_s
            start_read(run.channel, requests, request, seconds, row.arrival_s)
    arrive(run.batch, row.engine, request)


@njit(cache=True, forceinline=True)
def _prefix(
    requests: Requests, pool: Pool, ssd: Ssd, request: int, now_s: float, most_from_ssd: int
) -> tuple[int, int, int]:
    """The prefix of a request that can be had: blocks before the first from SSD, from DRAM, and from SSD."""
    row, blocks, in_dram = requests.row[request], requests.blocks, pool.in_dram
    at, end = row.start + row.device_hits, row.start + row.hittable
    leading = from_dram = from_ssd = 0
    while at < end:
        if in_dram[at]:
            from_dram += 1
        elif from_ssd < most_from_ssd and holds(ssd, blocks[at], now_s):
            if from_ssd == 0:
                leading = at - row.start
            from_ssd += 1
        else:
            break
        at += 1
    return (leading if from_ssd > 0 else at - row.start), from_dram, from_ssd


@njit(cache=True, forceinline=True)
def _admit(run: Simulation, k: int, request: int) -> None:
    """Find the prefix of a request that is admitted, and let it begin, or read from SSD first."""
    requests, pool, transfers = run.requests, run.pool, run.transfers
    row, now_s = requests.row[request], run.batch.engine[k].clock_s
    if run.loads_async and np.isnan(row.ready_s):
        row.ready_s = now_s + LOOKUP_S
        if run.coupled:
            look_up(pool, requests, request)
        load(run.batch, k, request)
        return
    row.found = True
    if run.coupled and not run.loads_async:
        look_up(pool, requests, request)
    most_from_ssd = row.hittable if run.has_ssd else 0
    if run.has_ssd and run.while_queued:
        done_s = stop_read(run.channel, requests, request, now_s) - transfers.latency_s
        most_from_ssd = max(int(done_s / transfers.read_s + _ROUNDING), 0)
    leading, from_dram, from_ssd = _prefix(requests, pool, run.ssd, request, now_s, most_from_ssd)
    reads = from_ssd > 0 and not run.while_queued
    if reads:
        after = row.device_hits + from_dram + from_ssd
        reads = _read(run, request, now_s, leading, after - leading, from_ssd)
        if not reads:
            from_dram, from_ssd = leading - row.device_hits, 0
    row.dram_hits = from_dram
    row.ssd_hits = from_ssd
    # Of a prompt that is all cached, the last token is computed.
    hits = row.device_hits + from_dram + from_ssd
    hit_tokens = hits * requests.block_tokens
    row.cached_tokens = max(min(hit_tokens, row.input_tokens - 1), 0)
    # What was read while the request waited lies in DRAM; what was read asynchronously is on the GPU.
    row.load_s = (from_dram + (0 if reads else from_ssd)) * transfers.load_s
    if run.coupled and run.loads_async:
        _store(run, k, request, hits)
    if run.loads_async and row.dram_hits > 0:
        row.ready_s = max(row.ready_s, now_s) + row.load_s
        row.load_s = 0.0
        reads = True
    if reads:
        load(run.batch, k, request)
    else:
        begin(run.batch, k, request)


@njit(cache=True, forceinline=True)
def _read(run: Simulation, request: int, now_s: float, leading: int, gained: int, from_ssd: int) -> bool:
    """Read from SSD what comes after ``leading`` blocks, if that takes less time than computing it."""
    requests, transfers, block_tokens = run.requests, run.transfers, run.requests.block_tokens
    seconds = transfers.latency_s + from_ssd * transfers.read_s
    ready_in_s = read_wait_s(run.channel, requests, now_s) + seconds
    compute_s = prefill_chunk_s(run.batch.tables, gained * block_tokens, leading * block_tokens)
    if ready_in_s >= compute_s:
        return False
    start_read(run.channel, requests, request, seconds, now_s)
    requests.row[request].ready_s = now_s + ready_in_s
    return True


@njit(cache=True, forceinline=True)
def _store(run: Simulation, k: int, request: int, end: int) -> None:
    """Store the first ``end`` blocks of a prompt in DRAM, but for those it has found or stored already."""
    requests = run.requests
    row = requests.row[request]
    end = min(end, row.kept)
    if row.stored < end:
        _store_blocks(run, k, requests.blocks[row.start + row.stored : row.start + end])
        row.stored = end


@njit(cache=True, forceinline=True)
def _store_blocks(run: Simulation, k: int, blocks: NDArray[np.int32]) -> None:
    ssd = run.ssd
    if ssd.index_blocks > 0.0:
        resize_dram(run.pool, ssd.room_blocks - int(ssd.index_blocks * ssd.tally[HELD]))
    store(run.pool, k, blocks)
    _demote_all(run, k)


@njit(cache=True, forceinline=True)
def _cache(run: Simulation, k: int, blocks: NDArray[np.int32]) -> None:
    """Keep blocks in the GPU cache."""
    cache(run.pool, k, blocks)
    _demote_all(run, k)


@njit(cache=True, forceinline=True)
def _demote_all(run: Simulation, k: int) -> None:
    """What was displaced from DRAM goes to the SSD."""
    dram = run.pool.tier[-1]
    _demote(run, run.pool.demoted[: dram.demotions], run.batch.engine[k].clock_s)
    dram.demotions = 0


@njit(cache=True, forceinline=True)
def _displace(run: Simulation, k: int, request: int) -> None:
    """What a request displaces, as the cache pass has said, goes to the SSD."""
    row = run.requests.row[request]
    demoted = run.pool.demoted[row.demoted_start : row.demoted_end]
    _demote(run, demoted, run.batch.engine[k].clock_s)


@njit(cache=True, forceinline=True)
def _demote(run: Simulation, demoted: Rows, now_s: float) -> None:
    """Write to the SSD what left DRAM, as far as the write queue has room."""
    if not run.has_ssd or len(demoted) == 0:
        return
    transfers = run.transfers
    room_s = transfers.write_queue_s - queued_writes_s(run.channel, run.requests, now_s)
    room = max(int(room_s / transfers.write_s + _ROUNDING), 0)
    written = demote(run.ssd, demoted, now_s, room)
    if written > 0:
        start_write(run.channel, written * transfers.write_s)
