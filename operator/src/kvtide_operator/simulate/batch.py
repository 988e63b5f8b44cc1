"""What is inside the engines: continuous batching with chunked prefill.

A step decodes a token of every running sequence and fills the rest of its token budget with prompts, first
come, first served. A request is admitted when its whole KV, answer included, fits the GPUs beside what is
admitted already: nothing is ever preempted.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.simulate.engine.profile import EngineProfile
from kvtide_operator.simulate.engine.step_times import StepTables, prefill_attention_s
from kvtide_operator.simulate.requests import NOBODY, Requests, Rows

WAITING, LOADING, FINISHING = range(3)
"""Queues of an engine: not admitted yet; looked up or loading; prefilled by the step that runs now."""

ENGINE = np.dtype(
    [
        # When the steps that run now began and end (infinite for an engine at rest), and how many they are.
        ("started_s", "f8"),
        ("clock_s", "f8"),
        ("planned", "i8"),
        # Steps done, sequences that decode, their tokens of context, requests admitted and not finished, and
        # the KV tokens set aside for them.
        ("steps", "i8"),
        ("running", "i8"),
        ("context_tokens", "i8"),
        ("admitted", "i8"),
        ("kv_tokens", "i8"),
        # The prompt that is half done, its tokens done and to do.
        ("partial", "i8"),
        ("done_tokens", "i8"),
        ("left_tokens", "i8"),
        # The next step: its prompt tokens, the prompts they belong to, seconds of attention and of loading.
        ("new_tokens", "i8"),
        ("chunks", "i8"),
        ("attention_s", "f8"),
        ("load_s", "f8"),
    ]
)

REQUEST_BITS = 24
MAX_REQUESTS = 1 << REQUEST_BITS
"""Requests of one run: a request shares an int64 with the step at which it finishes."""


class Batch(NamedTuple):
    """All engines, their limits and their step times.

    Attributes:
        row: the requests' rows.
        engine: `ENGINE`[engines].
        ends: int64[engines, 3, 2], first and last request of each queue.
        finishes: int64[engines, sequences], a heap of (step at which it finishes, request).
        tables: step times.
        layers: layers of the model.
        kv_capacity_tokens: tokens whose KV fits an engine's GPUs.
        chunk_tokens: tokens of one step.
    """

    row: Rows
    engine: Rows
    ends: NDArray[np.int64]
    finishes: NDArray[np.int64]
    tables: StepTables
    layers: int
    kv_capacity_tokens: int
    chunk_tokens: int


def idle_batch(
    requests: Requests, profile: EngineProfile, engines: int, chunk_tokens: int, max_sequences: int
) -> Batch:
    """Engines with nothing to do."""
    engine = np.zeros(engines, dtype=ENGINE).view(np.recarray)
    engine.clock_s = np.inf
    engine.partial = NOBODY
    return Batch(
        row=requests.row,
        engine=engine,
        ends=np.full((engines, 3, 2), NOBODY, dtype=np.int64),
        finishes=np.empty((engines, max_sequences), dtype=np.int64),
        tables=profile.tables,
        layers=profile.layers,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        chunk_tokens=chunk_tokens,
    )


@njit(cache=True, forceinline=True)
def push(batch: Batch, k: int, queue: int, request: int) -> None:
    """Put ``request`` at the end of a queue of engine ``k``."""
    ends = batch.ends[k, queue]
    if ends[0] == NOBODY:
        ends[0] = request
    else:
        batch.row[ends[1]].behind = request
    ends[1] = request
    batch.row[request].behind = NOBODY


@njit(cache=True, forceinline=True)
def _pop(batch: Batch, k: int, queue: int) -> int:
    request = batch.ends[k, queue, 0]
    if request != NOBODY:
        batch.ends[k, queue, 0] = batch.row[request].behind
    return request


@njit(cache=True, forceinline=True)
def prefilled(batch: Batch, k: int) -> int:
    """The next request whose prompt is done: it has its first token and decodes from now on."""
    request = _pop(batch, k, FINISHING)
    if request != NOBODY:
        engine, row = batch.engine[k], batch.row[request]
        row.first_token_s = engine.clock_s
        engine.context_tokens += row.input_tokens
        heap, at = batch.finishes[k], engine.running
        key = ((engine.steps + row.output_tokens - 1) << REQUEST_BITS) | request
        while at > 0 and heap[(at - 1) // 2] > key:
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
        heap[at] = key
        engine.running += 1
    return request


@njit(cache=True, forceinline=True)
def finished(batch: Batch, k: int) -> int:
    """The next request that has its last token; its KV is set free."""
    engine, heap = batch.engine[k], batch.finishes[k]
    if engine.running == 0 or heap[0] >> REQUEST_BITS > engine.steps:
        return NOBODY
    request = heap[0] & (MAX_REQUESTS - 1)
    row = batch.row[request]
    row.finish_s = engine.clock_s
    engine.context_tokens -= row.input_tokens + row.output_tokens - 1
    engine.kv_tokens -= row.input_tokens + row.output_tokens
    engine.admitted -= 1
    engine.running -= 1
    key, at, child = heap[engine.running], 0, 1
    while child < engine.running:
        if child + 1 < engine.running and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = key
    return request


@njit(cache=True, forceinline=True)
def admitted(batch: Batch, k: int) -> int:
    """The next request from the queue that fits beside those admitted, if the next step has room for it.

    It comes again when its look-up is done, where that takes time.
    """
    engine = batch.engine[k]
    _fill(batch, k)
    while engine.partial == NOBODY and engine.running + engine.new_tokens < batch.chunk_tokens:
        request = batch.ends[k, LOADING, 0]
        if request == NOBODY or batch.row[request].ready_s > engine.clock_s:
            break
        request = _pop(batch, k, LOADING)
        if not batch.row[request].found:
            return request
        begin(batch, k, request)
    if engine.partial != NOBODY or engine.running + engine.new_tokens >= batch.chunk_tokens:
        return NOBODY
    request = batch.ends[k, WAITING, 0]
    if request == NOBODY or engine.admitted == batch.finishes.shape[1]:
        return NOBODY
    need = batch.row[request].input_tokens + batch.row[request].output_tokens
    if engine.kv_tokens + need > batch.kv_capacity_tokens:
        return NOBODY
    engine.kv_tokens += need
    engine.admitted += 1
    return _pop(batch, k, WAITING)


@njit(cache=True, forceinline=True)
def load(batch: Batch, k: int, request: int) -> None:
    """A request that was admitted waits for a look-up, a load or a read, until its `ready_s`."""
    push(batch, k, LOADING, request)


@njit(cache=True, forceinline=True)
def begin(batch: Batch, k: int, request: int) -> None:
    """A request that was admitted begins its prefill, after its `cached_tokens`."""
    engine, row = batch.engine[k], batch.row[request]
    row.dispatch_s = engine.clock_s
    engine.load_s += row.load_s
    engine.partial = request
    engine.done_tokens = row.cached_tokens
    # A prompt without tokens still takes one.
    engine.left_tokens = max(row.input_tokens, 1) - row.cached_tokens
    _fill(batch, k)


@njit(cache=True, forceinline=True)
def _fill(batch: Batch, k: int) -> None:
    """Give the prompt that is half done what room the next step has."""
    engine = batch.engine[k]
    tokens = min(engine.left_tokens, batch.chunk_tokens - engine.running - engine.new_tokens)
    if engine.partial == NOBODY or tokens <= 0:
        return
    engine.attention_s += prefill_attention_s(batch.tables, tokens, engine.done_tokens)
    engine.chunks += 1
    engine.new_tokens += tokens
    engine.done_tokens += tokens
    engine.left_tokens -= tokens
    if engine.left_tokens == 0:
        push(batch, k, FINISHING, engine.partial)
        engine.partial = NOBODY
