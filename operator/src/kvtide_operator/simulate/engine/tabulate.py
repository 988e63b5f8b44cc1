"""Makes engine profiles out of a step-time model: where to ask, how to take steps apart, how to round."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .profile import (
    FORMAT,
    DecodeTable,
    GpuMemory,
    LinearTable,
    PrefillTable,
    ProfileFile,
    monotone,
)

SIGNIFICANT_DIGITS = 4


class StepModel(Protocol):
    """Something that knows how long steps take, in seconds; measured or computed."""

    def linear_s(self, tokens: int) -> float:
        """Everything but attention, for a step that computes ``tokens`` tokens."""
        ...

    def prefill_s(self, new: int, cached: int) -> float:
        """A whole step that prefills ``new`` tokens after ``cached`` ones."""
        ...

    def decode_s(self, batch: int, context: int) -> float:
        """A whole step that decodes ``batch`` sequences of ``context`` tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What was measured; see `ProfileFile` for the fields."""

    model: str
    system: str
    engine: str
    engine_version: str
    parallelism: dict[str, int]
    gpus: int
    layers: int
    memory: GpuMemory
    source: str
    date: str


def octaves(first: int, last: int, per_octave: int) -> list[int]:
    """Whole numbers from ``first`` to ``last``, ``per_octave`` between a power of two and the next."""
    points = {first, last}
    octave = 1
    while octave <= last:
        points.update(octave + octave * part // per_octave for part in range(per_octave))
        octave *= 2
    return sorted(point for point in points if first <= point <= last)


# The linear part of a dense model is a straight line but for kernel switches; attention is quadratic in
# the new tokens (four points an octave leave at most 1.2 % between them) and linear in the others.
_TOKENS = octaves(1, 131072, 4)
_NEW = octaves(1, 131072, 4)
_CACHED = [0, *octaves(128, 131072, 1)]
_BATCH = octaves(1, 1024, 2)
_CONTEXT = octaves(16, 131072, 2)


def tabulate(steps: StepModel, identity: Identity) -> ProfileFile:
    """The profile file of a step-time model, made monotone, with the largest correction in it.

    The correction is the part of a whole step's time by which the cleaned table differs from the source.
    """
    linear_raw = np.array([steps.linear_s(tokens) for tokens in _TOKENS])
    new_linear = dict(zip(_TOKENS, linear_raw, strict=True))
    prefill_raw = np.array([[steps.prefill_s(n, c) - new_linear[n] for c in _CACHED] for n in _NEW])
    decode_raw = np.array([[steps.decode_s(b, c) - steps.linear_s(b) for c in _CONTEXT] for b in _BATCH])
    linear, prefill, decode = (
        monotone(np.maximum(raw, 0.0)) for raw in (linear_raw, prefill_raw, decode_raw)
    )
    corrections = (
        np.abs(linear - linear_raw) / linear_raw,
        np.abs(prefill - prefill_raw) / (prefill_raw + linear_raw[:, np.newaxis]),
        np.abs(decode - decode_raw) / (decode_raw + linear_raw[0]),
    )
    memory = identity.memory
    free = int(memory.gpu_bytes * memory.utilisation) - memory.weights_bytes - memory.overhead_bytes
    return ProfileFile(
        format=FORMAT,
        model=identity.model,
        system=identity.system,
        engine=identity.engine,
        engine_version=identity.engine_version,
        gpus=identity.gpus,
        parallelism=identity.parallelism,
        layers=identity.layers,
        kv_capacity_tokens=free // memory.kv_bytes_per_token,
        memory=memory,
        source=identity.source,
        date=identity.date,
        largest_correction=round(max(float(part.max()) for part in corrections), 4),
        linear=LinearTable(_floats(_TOKENS), _rounded(linear)),
        prefill_attention=PrefillTable(_floats(_NEW), _floats(_CACHED), [_rounded(row) for row in prefill]),
        decode_attention=DecodeTable(_floats(_BATCH), _floats(_CONTEXT), [_rounded(row) for row in decode]),
    )


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values]


def _floats(values: Iterable[int]) -> list[float]:
    return [float(value) for value in values]


def to_json(file: ProfileFile) -> bytes:
    """The file's bytes: one line per field and row, so that a change of tables can be read in a diff."""
    fields = msgspec.to_builtins(file)
    lines = [f'  "{name}": {_json(value, 2)}' for name, value in fields.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _json(value: object, indent: int) -> str:
    if isinstance(value, dict) and any(isinstance(part, list) for part in value.values()):
        inner = " " * (indent + 2)
        parts = ",\n".join(f'{inner}"{name}": {_json(part, indent + 2)}' for name, part in value.items())
        return "{\n" + parts + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        inner = " " * (indent + 2)
        return "[\n" + ",\n".join(inner + _json(row, indent) for row in value) + "\n" + " " * indent + "]"
    if isinstance(value, float) and value == int(value) and value < 2**53:
        return str(int(value))
    if isinstance(value, list):
        return "[" + ",".join(_json(part, indent) for part in value) + "]"
    return msgspec.json.encode(value).decode()
