"""How long an engine's step takes: measured tables, interpolated in constant time inside numba loops.

A step that prefills ``new`` tokens on top of ``cached`` ones and decodes ``batch`` sequences takes

    linear(new + batch) + prefill_attention(new, cached) + decode_attention(batch, mean context)

because projections, feed-forward layers and collectives see one batch of tokens, whoever they belong
to, while attention runs once for the chunk and once for the decoding sequences: `step_s`. A step with
several chunks takes the sum of their `prefill_attention_s`, less ``prefill_attention_s(tables, 1, 0)``, the
launch time of the kernels, for every chunk but one: `step_of_chunks_s`.

Between points the tables are interpolated linearly; below the first point they are constant, beyond the
last measured one the last slope goes on, up to ``FAR_TOKENS``. Every table rises along every axis, and
linear interpolation keeps that: more work never takes less time.
"""

from math import frexp
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

FAR_TOKENS = 2.0**24
"""Where extrapolation ends: a step of more tokens than that takes as long as one of 16 M."""

StepTables = NDArray[np.float64]
"""The tables of a profile in one C-contiguous float64 vector, made by `step_tables`.

One vector rather than a tuple of arrays, because numba counts references for every array that a call
passes on, which took several times longer than the interpolation. It begins with the
offsets of its parts (`_LINEAR_AXIS` and so on); an axis is its number of points, then for each bucket of
values the index at which the search starts, then the points, then one over the distance to the next.
"""

_LINEAR_AXIS, _LINEAR, _NEW, _CACHED, _PREFILL, _BATCH, _CONTEXT, _DECODE = range(8)

_PER_OCTAVE = 8  # buckets between a power of two and the next
_BUCKETS = 26 * _PER_OCTAVE  # octave 0 holds [0, 1), octave o holds [2**(o-1), 2**o), 25 begins at FAR_TOKENS


# Inlined into the caller's loop, which halves the time of a step; NumPy's error model leaves out checks
# for division by zero.
_inlined = njit(inline="always", cache=True, error_model="numpy")


class Curve(NamedTuple):
    """Seconds over one axis: float64[n] each, the axis strictly rising, the seconds never falling."""

    axis: NDArray[np.float64]
    seconds: NDArray[np.float64]


class Surface(NamedTuple):
    """Seconds over two axes: float64[m], float64[n] and float64[m, n], never falling along either axis."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    seconds: NDArray[np.float64]


def step_tables(linear: Curve, prefill_attention: Surface, decode_attention: Surface) -> StepTables:
    """Packs the three measured tables, with their extrapolation appended and their axes indexed."""
    parts = (
        _packed_axis(linear.axis),
        _extended(linear.axis, linear.seconds),
        _packed_axis(prefill_attention.rows),
        _packed_axis(prefill_attention.columns),
        _extended_surface(prefill_attention).ravel(),
        _packed_axis(decode_attention.rows),
        _packed_axis(decode_attention.columns),
        _extended_surface(decode_attention).ravel(),
    )
    offsets = len(parts) + np.cumsum([0, *(len(part) for part in parts[:-1])])
    return np.concatenate([offsets, *parts])


def _packed_axis(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.append(axis, FAR_TOKENS)
    bucket = np.arange(_BUCKETS)
    fraction = (1 + bucket % _PER_OCTAVE / _PER_OCTAVE) / 2  # the smallest mantissa of the bucket
    smallest = np.where(bucket < _PER_OCTAVE, 0.0, np.ldexp(fraction, bucket // _PER_OCTAVE))
    start = np.clip(np.searchsorted(points, smallest, side="right") - 1, 0, len(points) - 2)
    return np.concatenate([[len(points)], start, points, 1 / np.diff(points)])


def _extended(axis: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Appends the values at FAR_TOKENS along the first axis of ``seconds``."""
    slope = (seconds[-1] - seconds[-2]) / (axis[-1] - axis[-2])
    far = np.atleast_1d(seconds[-1] + slope * (FAR_TOKENS - axis[-1]))
    # Noise in the last slopes must not make the far edge fall along the other axis.
    rising = np.maximum.accumulate(far).reshape((1, *seconds.shape[1:]))
    return np.concatenate([seconds, rising])


def _extended_surface(surface: Surface) -> NDArray[np.float64]:
    wide = _extended(surface.columns, surface.seconds.T).T
    return _extended(surface.rows, wide)


@_inlined
def _locate(tables: StepTables, part: int, value: float) -> tuple[int, float]:
    """Interval of ``value`` on an axis, and the position inside it from 0 to 1."""
    axis = int(tables[part])
    last = int(tables[axis]) - 2
    if value < 1.0:
        bucket = 0
    else:
        mantissa, octave = frexp(value)
        bucket = min(octave * _PER_OCTAVE + int(mantissa * 2 * _PER_OCTAVE) - _PER_OCTAVE, _BUCKETS - 1)
    index = int(tables[axis + 1 + bucket])
    point = axis + 1 + _BUCKETS
    while index < last and tables[point + index + 1] <= value:
        index += 1
    position = (value - tables[point + index]) * tables[point + last + 2 + index]
    return index, min(max(position, 0.0), 1.0)


@_inlined
def _surface(tables: StepTables, rows: int, columns: int, part: int, row: float, column: float) -> float:
    """Bilinear interpolation in a table with two axes."""
    i, x = _locate(tables, rows, row)
    j, y = _locate(tables, columns, column)
    width = int(tables[int(tables[columns])])
    at = int(tables[part]) + i * width + j
    low = tables[at] + y * (tables[at + 1] - tables[at])
    high = tables[at + width] + y * (tables[at + width + 1] - tables[at + width])
    return float(low + x * (high - low))


@_inlined
def linear_s(tables: StepTables, tokens: float) -> float:
    """Seconds of everything but attention in a step that computes ``tokens`` tokens."""
    i, x = _locate(tables, _LINEAR_AXIS, tokens)
    at = int(tables[_LINEAR]) + i
    return float(tables[at] + x * (tables[at + 1] - tables[at]))


@_inlined
def prefill_attention_s(tables: StepTables, new: float, cached: float) -> float:
    """Seconds of attention of one chunk of ``new`` tokens on themselves and ``cached`` ones; 0 without."""
    if new <= 0.0:
        return 0.0
    return _surface(tables, _NEW, _CACHED, _PREFILL, new, cached)


@_inlined
def decode_attention_s(tables: StepTables, batch: float, mean_context: float) -> float:
    """Seconds of attention of ``batch`` sequences of ``mean_context`` tokens on average; 0 without."""
    if batch <= 0.0:
        return 0.0
    return _surface(tables, _BATCH, _CONTEXT, _DECODE, batch, mean_context)


@_inlined
def step_s(tables: StepTables, new: float, cached: float, batch: float, mean_context: float) -> float:
    """Seconds of one step: a chunk of ``new`` tokens after ``cached`` ones, and ``batch`` decoding sequences.

    ``new = 0`` is a decode step, ``batch = 0`` a prefill step; with neither there is no step: 0.
    """
    attention_s = prefill_attention_s(tables, new, cached)
    return step_of_chunks_s(tables, new, attention_s, 1, batch, mean_context)


@_inlined
def step_of_chunks_s(
    tables: StepTables, new: float, attention_s: float, chunks: int, batch: float, mean_context: float
) -> float:
    """Seconds of one step with ``chunks`` chunks of ``new`` tokens in all, and ``batch`` decoding sequences.

    ``attention_s`` is the sum of the chunks' `prefill_attention_s`.
    """
    if new + batch <= 0.0:
        return 0.0
    seconds = linear_s(tables, new + batch) + attention_s
    if chunks > 1:
        seconds -= (chunks - 1) * prefill_attention_s(tables, 1.0, 0.0)
    return seconds + decode_attention_s(tables, batch, mean_context)


@_inlined
def prefill_chunk_s(tables: StepTables, new: float, cached: float) -> float:
    """Seconds of a step that only prefills ``new`` tokens after ``cached`` ones."""
    return step_s(tables, new, cached, 0.0, 0.0)


@njit(cache=True)
def prefill_s(tables: StepTables, cached: int, tokens: int, chunk_tokens: int) -> float:
    """Seconds to compute ``tokens`` of which ``cached`` are there, chunk after chunk, on an idle engine."""
    total_s = 0.0
    done = cached
    while done < tokens:
        new = min(chunk_tokens, tokens - done)
        total_s += prefill_chunk_s(tables, new, done)
        done += new
    return total_s


@_inlined
def decode_step_s(tables: StepTables, batch: float, mean_context: float) -> float:
    """Seconds of a step that only decodes: one token for each of ``batch`` sequences."""
    return step_s(tables, 0.0, 0.0, batch, mean_context)
