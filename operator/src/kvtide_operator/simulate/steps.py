"""The engines in time: how long their steps take, and how many of them nothing changes in.

Only steps that change something are played one by one. Between two changes every step takes longer than the
one before it by the same amount, since each sequence grows by a token, so n steps take n times the step in
their middle. That is exact as long as the mean context stays between two points of the table.
"""

import numpy as np
from numba import njit

from kvtide_operator.simulate.batch import LOADING, REQUEST_BITS, WAITING, Batch, push
from kvtide_operator.simulate.engine.step_times import StepTables, decode_step_s, step_of_chunks_s
from kvtide_operator.simulate.requests import NOBODY, Rows


@njit(cache=True, forceinline=True)
def arrive(batch: Batch, k: int, request: int) -> None:
    """A request joins the queue of engine ``k``, which looks at it at the end of the step that runs now."""
    engine, now_s = batch.engine[k], batch.row[request].arrival_s
    queued = batch.ends[k, WAITING, 0] != NOBODY
    push(batch, k, WAITING, request)
    if queued:
        return  # those before it wait for a sequence to finish, and so does this one
    if engine.planned > 0:
        _stop_before(batch, k, now_s)
    else:
        engine.clock_s = now_s


@njit(cache=True, forceinline=True)
def elapse(batch: Batch, k: int) -> None:
    """The steps that ran until now are done."""
    engine = batch.engine[k]
    engine.steps += engine.planned
    engine.context_tokens += engine.running * engine.planned
    engine.planned = 0


@njit(cache=True, forceinline=True)
def launch(batch: Batch, k: int) -> None:
    """Start the next step, or several if nothing changes until their end, or rest."""
    engine, loading = batch.engine[k], batch.ends[k, LOADING, 0]
    engine.started_s = engine.clock_s
    if engine.new_tokens > 0:
        engine.planned = 1
        engine.clock_s += _mixed_s(batch, k)
        engine.new_tokens = engine.chunks = 0
        engine.attention_s = engine.load_s = 0.0
        return
    ready_s = np.inf if loading == NOBODY else batch.row[loading].ready_s
    if engine.running == 0:
        engine.clock_s = ready_s
        return
    engine.planned = (batch.finishes[k, 0] >> REQUEST_BITS) - engine.steps
    engine.clock_s += _decode_s(batch.tables, engine, engine.planned)
    if ready_s < engine.clock_s:
        _stop_before(batch, k, ready_s)


@njit(cache=True, forceinline=True)
def _mixed_s(batch: Batch, k: int) -> float:
    """Seconds of the next step; loads overlap with it layer by layer, but for the first layer's."""
    engine, running = batch.engine[k], batch.engine[k].running
    context = engine.context_tokens / running if running > 0 else 0.0
    seconds = step_of_chunks_s(
        batch.tables, engine.new_tokens, engine.attention_s, engine.chunks, running, context
    )
    return max(seconds, engine.load_s) + engine.load_s / batch.layers


@njit(cache=True, forceinline=True)
def _decode_s(tables: StepTables, engine: Rows, steps: int) -> float:
    """Seconds of the next ``steps`` steps if all they do is decode."""
    running = engine.running
    return steps * decode_step_s(tables, running, engine.context_tokens / running + 0.5 * (steps - 1))


@njit(cache=True, forceinline=True)
def _stop_before(batch: Batch, k: int, until_s: float) -> None:
    """Of the steps planned, play only those that begin before ``until_s``, and at least one."""
    engine, tables = batch.engine[k], batch.tables
    if engine.planned == 1 or until_s >= engine.clock_s:
        return
    wanted_s, all_s = until_s - engine.started_s, engine.clock_s - engine.started_s
    # Steps take nearly the same time: the guess is off by a step or two.
    steps = min(max(int(engine.planned * wanted_s / all_s), 1), engine.planned)
    while steps > 1 and _decode_s(tables, engine, steps - 1) >= wanted_s:
        steps -= 1
    while steps < engine.planned and _decode_s(tables, engine, steps) < wanted_s:
        steps += 1
    engine.planned = steps
    engine.clock_s = engine.started_s + _decode_s(tables, engine, steps)
