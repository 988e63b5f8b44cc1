"""A profile brought to the pace that engines are seen to have."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.engine.pace import Pace
from kvtide_operator.simulate.engine.profile import EngineProfile, monotone
from kvtide_operator.simulate.engine.step_times import (
    Curve,
    Surface,
    decode_attention_s,
    decode_step_s,
    linear_s,
    prefill_attention_s,
    step_s,
    step_tables,
)
from kvtide_operator.simulate.engine.tabulate import octaves
from kvtide_operator.simulate.errors import SimulationError

MOST_SCALING: Final = 20.0
"""A base that differs by more is not the shape of these engines."""

_TOKENS = octaves(1, 131072, 4)
_CACHED = [0, *octaves(128, 131072, 1)]
_BATCH = octaves(1, 1024, 2)
_CONTEXT = octaves(16, 131072, 2)


def scaled(base: EngineProfile, pace: Pace) -> EngineProfile:
    """``base`` with all that happens in a prefill and all that happens in decode steps scaled to ``pace``.

    What depends on the tokens of a step alone is scaled as decode steps are up to the batch that was seen, as
    prefills are from the mean prompt on, and by something in between in between.

    Raises:
        SimulationError: the base is off by more than `MOST_SCALING`.
    """
    tables, batch, context = base.tables, pace.batch, pace.context_tokens
    prefill = pace.prefill_s / step_s(tables, pace.new_tokens, pace.cached_tokens, batch, context)
    decode = pace.decode_step_s / decode_step_s(tables, batch, context)
    for what, factor in (("prefills", prefill), ("decode steps", decode)):
        if not 1 / MOST_SCALING <= factor <= MOST_SCALING:
            raise SimulationError(
                f"{what} take {factor:.3g} times as long as the engine profile's base says; declare a"
                " base that is nearer to these engines"
            )
    tokens = np.array(_TOKENS, dtype=np.float64)
    ends = np.log([batch, max(pace.new_tokens, 2 * batch)])
    factors = np.exp(np.interp(np.log(tokens), ends, np.log([decode, prefill])))
    linear = np.array([linear_s(tables, n) for n in tokens]) * factors
    cached, rows, columns = map(np.asarray, (_CACHED, _BATCH, _CONTEXT))
    chunks = np.array([[prefill_attention_s(tables, n, c) for c in _CACHED] for n in _TOKENS]) * prefill
    steps = np.array([[decode_attention_s(tables, b, c) for c in _CONTEXT] for b in _BATCH]) * decode
    return replace(
        base,
        source=f"{base.source}, prefills x {prefill:.2f}, decode steps x {decode:.2f} as measured",
        tables=step_tables(
            Curve(tokens, np.maximum.accumulate(linear)),
            Surface(tokens, _floats(cached), monotone(chunks)),
            Surface(_floats(rows), _floats(columns), monotone(steps)),
        ),
    )


def _floats(values: NDArray[np.int64]) -> NDArray[np.float64]:
    return values.astype(np.float64)
