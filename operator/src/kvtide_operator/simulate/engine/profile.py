"""Engine profiles: the measured step times of one model on one system, read from and written to JSON.

A file holds three tables (see `step_times`): ``linear`` over the tokens of a step, ``prefill_attention``
over new and cached tokens, ``decode_attention`` over batch and context. Whoever measures whole steps gets
them by subtraction: ``linear`` from steps with hardly any context, the other two from what a step takes
longer than that.
"""

from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from .step_times import Curve, StepTables, Surface, step_tables

FORMAT = 1
MAX_POINTS = 100_000
"""Numbers in one table of a file; the tables that ship have about a thousand."""

MONOTONE_TOLERANCE = 0.10
"""How much of a step's time may be noise: a file whose times fall by more with more work is refused."""


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the file, the field and the cure."""


class GpuMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the KV capacity comes from, per GPU: memory x utilisation - weights - overhead."""

    gpu_bytes: int
    utilisation: float
    weights_bytes: int
    overhead_bytes: int
    kv_bytes_per_token: int


class LinearTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of everything but attention, over the tokens a step computes."""

    tokens: list[float]
    seconds: list[float]


class PrefillTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a chunk's attention: a row per number of new tokens, a column per cached ones."""

    new_tokens: list[float]
    cached_tokens: list[float]
    seconds: list[list[float]]


class DecodeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a decode step's attention: a row per batch size, a column per context length."""

    batch: list[float]
    context_tokens: list[float]
    seconds: list[list[float]]


class ProfileFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile as it stands in a file."""

    format: int
    model: str
    system: str
    engine: str
    engine_version: str
    gpus: int
    parallelism: dict[str, int]
    layers: int
    kv_capacity_tokens: int
    memory: GpuMemory | None = None
    source: str
    date: str
    largest_correction: float
    linear: LinearTable
    prefill_attention: PrefillTable
    decode_attention: DecodeTable


@dataclass(frozen=True, slots=True, eq=False)
class EngineProfile:
    """Step times and KV room of one engine instance.

    Attributes:
        model: name of the model measured, as its maker publishes it.
        system: GPU system, such as ``h100_sxm``.
        engine: ``vllm`` or ``sglang``, in small letters.
        engine_version: version of the engine that was measured.
        gpus: GPUs of one instance.
        layers: layers of the model, for loads that are overlapped layer by layer.
        kv_capacity_tokens: tokens whose KV fits an instance's GPUs.
        source: package and version, or whatever produced the table.
        date: day of the table, ISO 8601.
        tables: step times, for the functions of `step_times`.
    """

    model: str
    system: str
    engine: str
    engine_version: str
    gpus: int
    layers: int
    kv_capacity_tokens: int
    source: str
    date: str
    tables: StepTables


def monotone(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest array (largest difference as small as possible) that never falls along any axis.

    Midway between the largest value at or before a place and the smallest at or after it: isotonic
    regression in the maximum norm. An array that never falls comes back unchanged.
    """
    before, after = values, values
    for axis in range(values.ndim):
        before = np.maximum.accumulate(before, axis=axis)
        after = np.flip(np.minimum.accumulate(np.flip(after, axis), axis=axis), axis)
    return np.asarray((before + after) / 2)


def parse_profile(data: bytes, where: str) -> EngineProfile:
    """The profile in ``data``, the bytes of a JSON file that messages call ``where``.

    Noise of up to MONOTONE_TOLERANCE is smoothed away, more is refused.

    Raises:
        ProfileError: not a profile, a table that does not fit its axes, or times that make no sense.
    """
    try:
        file = msgspec.json.decode(data, type=ProfileFile)
    except msgspec.DecodeError as error:
        raise ProfileError(f"{where} is not an engine profile: {error}") from None
    if file.format != FORMAT:
        raise ProfileError(
            f"{where} has format {file.format}; this version reads format {FORMAT}: make it again"
        )
    for field in ("gpus", "layers", "kv_capacity_tokens"):
        if getattr(file, field) <= 0:
            raise ProfileError(f"{where}: {field} is {getattr(file, field)}; it must be a positive number")
    return EngineProfile(
        model=file.model,
        system=file.system,
        engine=file.engine,
        engine_version=file.engine_version,
        gpus=file.gpus,
        layers=file.layers,
        kv_capacity_tokens=file.kv_capacity_tokens,
        source=file.source,
        date=file.date,
        tables=_tables(file, where),
    )


def _tables(file: ProfileFile, where: str) -> StepTables:
    linear, prefill, decode = file.linear, file.prefill_attention, file.decode_attention
    tokens = _axis(linear.tokens, f"{where}: linear.tokens")
    new = _axis(prefill.new_tokens, f"{where}: prefill_attention.new_tokens")
    cached = _axis(prefill.cached_tokens, f"{where}: prefill_attention.cached_tokens")
    batch = _axis(decode.batch, f"{where}: decode_attention.batch")
    context = _axis(decode.context_tokens, f"{where}: decode_attention.context_tokens")
    linear_s = _seconds(linear.seconds, (len(tokens),), 0.0, f"{where}: linear.seconds")
    shortest_s = float(linear_s[0])
    if shortest_s <= 0:
        raise ProfileError(f"{where}: linear.seconds starts with {shortest_s}; no step takes no time")
    prefill_s = _seconds(
        prefill.seconds, (len(new), len(cached)), shortest_s, f"{where}: prefill_attention.seconds"
    )
    decode_s = _seconds(
        decode.seconds, (len(batch), len(context)), shortest_s, f"{where}: decode_attention.seconds"
    )
    return step_tables(
        Curve(tokens, linear_s), Surface(new, cached, prefill_s), Surface(batch, context, decode_s)
    )


def _axis(values: list[float], what: str) -> NDArray[np.float64]:
    if len(values) < 2:
        raise ProfileError(f"{what} has {len(values)} points; at least two are needed")
    if values[0] < 0 or values[-1] >= 2.0**24:
        raise ProfileError(
            f"{what} goes from {values[0]:g} to {values[-1]:g}; keep it from 0 to below 16,777,216"
        )
    for left, right in pairwise(values):
        if right <= left:
            raise ProfileError(
                f"{what} goes from {left:g} to {right:g}; every point must be above the one before"
            )
    return np.array(values, dtype=np.float64)


def _seconds(
    values: list[float] | list[list[float]], shape: tuple[int, ...], step_s: float, what: str
) -> NDArray[np.float64]:
    """Seconds of a table, cleaned; ``step_s`` is what a step takes besides."""
    try:
        seconds = np.array(values, dtype=np.float64)
    except ValueError:
        raise ProfileError(
            f"{what} has rows of different lengths; it needs {_shape(shape)} numbers"
        ) from None
    if seconds.shape != shape:
        raise ProfileError(f"{what} has {_shape(seconds.shape)} numbers; its axes need {_shape(shape)}")
    if seconds.size > MAX_POINTS:
        raise ProfileError(f"{what} has {seconds.size} numbers; a table may have {MAX_POINTS}")
    if not np.isfinite(seconds).all() or seconds.min() < 0:
        raise ProfileError(f"{what} has a negative or infinite time; measure again")
    clean = monotone(seconds)
    change = np.abs(clean - seconds) / np.maximum(seconds + step_s, np.finfo(np.float64).tiny)
    if change.max() > MONOTONE_TOLERANCE:
        worst = int(change.argmax())
        place = " x ".join(str(int(i)) for i in np.unravel_index(worst, shape))
        raise ProfileError(
            f"{what}: {seconds.flat[worst]:.4g} s at index {place} does not rise with more work, by"
            f" {change.max():.0%} of a step; measure again (up to {MONOTONE_TOLERANCE:.0%} is smoothed)"
        )
    return clean


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
