"""Step times from measured requests: a least-squares fit, written as the tables of `profile`.

A step that computes ``new`` tokens after ``cached`` ones beside ``batch`` decoding sequences is taken to last

    linear(new + batch) + a·new·(cached + (new + 1) / 2) + b·cached + c·batch·context

``linear`` is a rising polygon through the sizes of steps that were measured alone; ``a`` is the attention of
each token to those before it, ``b`` reading the cached KV once for a chunk, ``c`` reading it for a sequence
that decodes. All are found together, so that prompts of several steps count, too. Full chunks cannot tell
``a`` from ``b``: where nothing else was measured, a chunk reads a token in the time of a decoding sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from kvtide_operator.simulate.engine.profile import DecodeTable, LinearTable, PrefillTable, ProfileFile
from kvtide_operator.simulate.engine.tabulate import octaves

MIN_SAMPLES = 6
"""Different amounts of work that have to be measured: more than a line and attention have unknowns."""
MAX_TOKENS = 131072
"""Up to here the tables are written; the formula holds as far as it was measured."""
MAX_BATCH = 1024
READ_WEIGHT = 0.1
"""How much that ``b`` is ``c`` counts: as a sample ten times as inexact as the others."""


class FitError(ValueError):
    """Too little was measured; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step: a chunk of ``new`` tokens after ``cached`` ones is computed, and ``batch`` sequences decode.

    ``context`` is the mean number of tokens that those attend to.
    """

    new: int = 0
    cached: int = 0
    batch: int = 0
    context: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Steps that ran one after the other, and the seconds they took together."""

    steps: tuple[Step, ...]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class StepFit:
    """Fitted step times.

    Attributes:
        tokens: float64[points], the step sizes that were measured, rising.
        linear_s: float64[points], seconds of everything but attention at those.
        pair_s: seconds for each pair of a new token and one before it.
        read_s: seconds for each cached token of a chunk.
        decode_s: seconds for each token of context of a decoding sequence.
        mean_error: mean of |fitted − measured| / measured over the samples.
        worst_error: the largest of them.
    """

    tokens: NDArray[np.float64]
    linear_s: NDArray[np.float64]
    pair_s: float
    read_s: float
    decode_s: float
    mean_error: float
    worst_error: float

    def seconds(self, steps: Sequence[Step]) -> float:
        """Seconds that ``steps`` take one after the other."""
        row = _row(steps, self.tokens)
        rises = np.diff(self.linear_s, prepend=0.0)
        return float(row @ np.concatenate([rises, [self.pair_s, self.read_s, self.decode_s]]))


def chunks(new: int, cached: int, chunk_tokens: int) -> tuple[Step, ...]:
    """The steps in which an idle engine computes ``new`` tokens, ``chunk_tokens`` at most in each."""
    return tuple(
        Step(new=min(chunk_tokens, new - done), cached=cached + done) for done in range(0, new, chunk_tokens)
    )


def fit_steps(samples: Sequence[Sample]) -> StepFit:
    """The step times nearest to ``samples``, in relative terms; samples of equal work count as their median.

    Raises:
        FitError: fewer than `MIN_SAMPLES` different ones, or less than two sizes of single steps.
    """
    distinct = _medians(samples)
    alone = (sample.steps[0] for sample in distinct if len(sample.steps) == 1)
    sizes = sorted({step.new + step.batch for step in alone})
    if len(distinct) < MIN_SAMPLES or len(sizes) < 2:
        raise FitError(
            f"{len(distinct)} different amounts of work were measured, in steps of {len(sizes)} sizes; step"
            f" times need {MIN_SAMPLES} and 2: give it more time"
        )
    tokens = np.array(sizes, dtype=np.float64)
    rows = np.array([_row(sample.steps, tokens) for sample in distinct])
    seconds = np.array([sample.seconds for sample in distinct])
    shares = np.vstack([rows / seconds[:, np.newaxis], np.zeros(rows.shape[1])])
    shares[-1, -2:] = READ_WEIGHT * shares[:, -2].max() * np.array([1.0, -1.0])
    scale = shares.max(axis=0, initial=np.finfo(np.float64).tiny)
    found, _ = nnls(shares / scale, np.append(np.ones(len(distinct)), 0.0))
    found /= scale
    errors = np.abs(rows @ found / seconds - 1)
    linear_s = np.cumsum(found[:-3])
    # A step that takes no time would be refused by whoever reads the file; it is the shortest that is known.
    linear_s[linear_s == 0.0] = min(linear_s[linear_s > 0.0], default=1e-9)
    pair_s, read_s, decode_s = map(float, found[-3:])
    return StepFit(tokens, linear_s, pair_s, read_s, decode_s, float(errors.mean()), float(errors.max()))


def _medians(samples: Sequence[Sample]) -> list[Sample]:
    ordered = sorted(samples, key=lambda sample: repr(sample.steps))
    grouped = (list(equal) for _, equal in groupby(ordered, key=lambda sample: sample.steps))
    return [replace(equal[0], seconds=median(sample.seconds for sample in equal)) for equal in grouped]


def _row(steps: Sequence[Step], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each unknown counts: the rises of the polygon, then the three kinds of attention."""
    widths = np.diff(tokens)
    row = np.zeros(len(tokens) + 3)
    for step in steps:
        size = step.new + step.batch
        rises = np.maximum((size - tokens[:-1]) / widths, 0.0)
        rises[:-1] = np.minimum(rises[:-1], 1.0)  # the last slope goes on
        row[0] += 1.0
        row[1 : len(tokens)] += rises
        row[-3] += step.new * (step.cached + (step.new + 1) / 2)
        row[-2] += step.cached if step.new else 0.0
        row[-1] += step.batch * step.context
    return row


def tables_of(fit: StepFit) -> tuple[LinearTable, PrefillTable, DecodeTable]:
    """The fit as the tables of a profile."""
    new, cached = octaves(1, MAX_TOKENS, 4), [0, *octaves(128, MAX_TOKENS, 1)]
    batch, context = octaves(1, MAX_BATCH, 1), octaves(16, MAX_TOKENS, 1)
    prefill = [[fit.pair_s * n * (c + (n + 1) / 2) + fit.read_s * c for c in cached] for n in new]
    decode = [[fit.decode_s * b * c for c in context] for b in batch]
    return (
        LinearTable(fit.tokens.tolist(), _rounded(fit.linear_s.tolist())),
        PrefillTable(list(map(float, new)), list(map(float, cached)), [_rounded(row) for row in prefill]),
        DecodeTable(list(map(float, batch)), list(map(float, context)), [_rounded(row) for row in decode]),
    )


def slower(file: ProfileFile, factor: float) -> ProfileFile:
    """``file`` with all step times multiplied by ``factor``."""
    linear, prefill, decode = file.linear, file.prefill_attention, file.decode_attention
    return msgspec.structs.replace(
        file,
        linear=LinearTable(linear.tokens, _rounded([factor * s for s in linear.seconds])),
        prefill_attention=PrefillTable(
            prefill.new_tokens,
            prefill.cached_tokens,
            [_rounded([factor * s for s in row]) for row in prefill.seconds],
        ),
        decode_attention=DecodeTable(
            decode.batch,
            decode.context_tokens,
            [_rounded([factor * s for s in row]) for row in decode.seconds],
        ),
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
