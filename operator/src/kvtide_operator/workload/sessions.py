"""Sessions of synthetic users: when they start, how many turns they take, how their prompts grow."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.workload.profiles import Profile

Shape = Literal["flat", "hill", "day"]

DAY_S = 86_400.0
MAX_INPUT_TOKENS = 131_072
"""A session ends before the turn whose prompt would exceed this: the context length of current models."""
_RATE_GRID = 4096
"""Instants at which the rate of a load is evaluated; between them it is taken as linear."""


@dataclass(frozen=True, slots=True)
class Load:
    """Session starts a second over time: ``rate`` at the trough, ``peak`` times that at the crest.

    ``hill`` goes up and down once in ``period_s`` and stays at the trough outside it; ``day`` repeats.
    """

    shape: Shape
    peak: float
    period_s: float

    def factor(self, at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rate at these times as a multiple of the trough's."""
        if self.shape == "flat":
            return np.ones_like(at_s)
        wave = (1 - np.cos(2 * np.pi * at_s / self.period_s)) / 2
        if self.shape == "hill":
            wave = np.where((at_s < 0) | (at_s > self.period_s), 0.0, wave)
        return 1 + (self.peak - 1) * wave


@dataclass(frozen=True, slots=True)
class Turns:
    """One row a request, in order of arrival.

    Attributes:
        arrival_s: float64, seconds from the trace's start.
        input_tokens: int64, the whole prompt: shared prompt, earlier turns and their answers, new message.
        output_tokens: int64.
        session: int64, dense numbers.
        prompt: int64, which shared prompt the session began with.
        alone: bool, whether the session has this turn only.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    session: NDArray[np.int64]
    prompt: NDArray[np.int64]
    alone: NDArray[np.bool_]


def draw_turns(sizes: Profile, load: Load, rate: float, span_s: float, rng: np.random.Generator) -> Turns:
    """All requests in ``[0, span_s)``, those of sessions that began before it included.

    Args:
        sizes: what sessions are like.
        load: how their rate changes.
        rate: requests a second at the trough of the load.
        span_s: seconds.
        rng: where chance comes from.
    """
    starts_s = _session_starts(load, rate / sizes.mean_turns, -sizes.warm_up_s, span_s, rng)
    sessions = len(starts_s)
    single = rng.random(sessions) < sizes.single_turn_share
    turns = np.where(single, 1, 1 + rng.geometric(1 / (sizes.mean_turns_multi - 1), sessions))
    session = np.repeat(np.arange(sessions), turns)
    opening = np.zeros(len(session), dtype=bool)
    opening[np.cumsum(turns) - turns] = True

    popularity = np.arange(1, sizes.shared_prompts + 1) ** -sizes.zipf_exponent
    prompt = rng.choice(sizes.shared_prompts, sessions, p=popularity / popularity.sum())
    pace = rng.lognormal(0.0, sizes.pace_sigma, sessions)
    think_s = sizes.think_s.draw(len(session), rng) * pace[session]
    arrival_s = starts_s[session] + _running_sum(np.where(opening, 0.0, think_s), turns)

    answer = np.ceil(sizes.answer_tokens.draw(len(session), rng))
    message = np.ceil(sizes.message_tokens.draw(len(session), rng))
    message[opening] = np.ceil(
        np.where(
            single,
            sizes.single_message_tokens.draw(sessions, rng),
            sizes.first_message_tokens.draw(sessions, rng),
        )
    )
    before = np.roll(answer, 1)  # a turn's prompt grows by the answer of the turn before
    before[opening] = sizes.shared_prompt_lengths[prompt]
    context = _running_sum(before + message, turns)

    kept = np.flatnonzero((arrival_s >= 0) & (arrival_s < span_s) & (context <= MAX_INPUT_TOKENS))
    kept = kept[np.argsort(arrival_s[kept], kind="stable")]
    return Turns(
        arrival_s=arrival_s[kept],
        input_tokens=context[kept].astype(np.int64),
        output_tokens=answer[kept].astype(np.int64),
        session=session[kept],
        prompt=prompt[session[kept]],
        alone=single[session[kept]],
    )


def _session_starts(
    load: Load, per_s: float, begin_s: float, end_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A Poisson process of rate ``per_s * load.factor``, by inversion of its cumulative rate."""
    grid = np.linspace(begin_s, end_s, _RATE_GRID)
    factor = load.factor(grid)
    mass = np.concatenate(([0.0], np.cumsum((factor[1:] + factor[:-1]) / 2 * np.diff(grid)))) * per_s
    drawn = np.sort(rng.random(rng.poisson(mass[-1]))) * mass[-1]
    starts_s: NDArray[np.float64] = np.interp(drawn, mass, grid)
    return starts_s


def _running_sum(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """The running sum that starts anew in each of the consecutive groups of these lengths."""
    total = np.cumsum(values)
    before = np.concatenate(([0.0], total))[np.cumsum(lengths) - lengths]
    sums: NDArray[np.float64] = total - np.repeat(before, lengths)
    return sums
