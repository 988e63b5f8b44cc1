"""Whether a move did what was planned: measured before and after it, read again from where metrics are kept.

Nothing is remembered for that: the moves are among the status' decisions, and past metrics can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvtide_operator.api.point import Point
from kvtide_operator.api.status import DecisionStatus, PredictionError, Sizes
from kvtide_operator.decide.outcomes import TAKEN_BACK, has_failed
from kvtide_operator.world.metrics import EngineMetrics, known

SHORTEST_EFFECT_S: Final = 60.0
"""A cache that grew fills with the traffic: less than a minute shows the move itself and not its effect."""
SIMILAR_LOAD: Final = 0.25
"""Rates that differ by more than this share are another workload: no effect can be read off them."""
LEAST_TTFT_ERROR: Final = 0.10
"""TTFTs of two windows of one workload differ by a few percent by chance; less than this is no effect."""
LEAST_HIT_ERROR: Final = 0.02
"""The same for hit ratios, in absolute terms."""
ERRORS: Final = 2.0
"""A measured effect contradicts the plan when it is off by twice the predictor's usual error."""


@dataclass(frozen=True, slots=True)
class Run:
    """Moves that followed each other so closely that only their sum has an effect of its own.

    Attributes:
        began_s: when the first was decided, seconds since the epoch.
        ended_s: when the last was.
        before: the sizes before the first.
        after: the sizes after the last.
    """

    began_s: float
    ended_s: float
    before: Sizes
    after: Sizes


@dataclass(frozen=True, slots=True)
class Windows:
    """Two windows of equal length to compare: each ends at its time."""

    before_s: float
    after_s: float
    length_s: float


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A move whose measured effect is not what was planned: where to go back to, and why."""

    back_to: Sizes
    why: str


def last_run(decisions: Sequence[DecisionStatus], effect_s: float) -> Run | None:
    """The newest moves without a pause of ``effect_s`` in between; None where the newest was undone.

    Args:
        decisions: newest first.
        effect_s: see `effect_s`.
    """
    run: Run | None = None
    for decision in decisions:
        undone = decision.action in TAKEN_BACK or has_failed(decision)
        if undone or (run is not None and run.began_s - decision.time > effect_s):
            break
        if run is None:
            run = Run(decision.time, decision.time, decision.before, decision.after)
        else:
            run = Run(decision.time, run.ended_s, decision.before, run.after)
    return run


def effect_s(down_stabilization_s: float) -> float:
    """How long after a move its effect shows: as long as a recommendation must hold to be believed."""
    return max(down_stabilization_s, SHORTEST_EFFECT_S)


def windows_of(run: Run, now_s: float, effect_s: float) -> Windows | None:
    """What to compare now: the time before the run with the newest, once the run has had its effect.

    A run is judged while its effect is fresh, for two windows' time; later the workload may have moved on.
    """
    since_s = now_s - run.ended_s
    if not 2 * effect_s <= since_s <= 4 * effect_s:
        return None
    return Windows(before_s=run.began_s, after_s=now_s, length_s=effect_s)


def contradiction(
    run: Run,
    before: EngineMetrics,
    after: EngineMetrics,
    planned: tuple[Point, Point],
    noise: PredictionError | None,
) -> Contradiction | None:
    """Why the run is to be taken back: things are worse than planned, by more than the usual error.

    What is not known, and what was measured under another load, contradicts nothing.

    Args:
        run: the moves.
        before: metrics of the window before them.
        after: metrics of a window after they had their effect.
        planned: the simulated points before and after.
        noise: the predictor's usual error.
    """
    if not _same_load(before, after):
        return None
    for said in (_hits_fell(before, after, planned, noise), _ttft_rose(before, after, planned, noise)):
        if said is not None:
            return Contradiction(run.before, said)
    return None


def _same_load(before: EngineMetrics, after: EngineMetrics) -> bool:
    pairs = (
        (before.requests_per_s, after.requests_per_s),
        (before.prompt_tokens_per_s, after.prompt_tokens_per_s),
        (before.instances, after.instances),
    )
    for then, now in pairs:
        a, b = known(then), known(now)
        if a is None or b is None or abs(a - b) > SIMILAR_LOAD * max(a, b):
            return False
    return True


def _hits_fell(
    before: EngineMetrics,
    after: EngineMetrics,
    planned: tuple[Point, Point],
    noise: PredictionError | None,
) -> str | None:
    then, now = known(before.prefix_hit_ratio), known(after.prefix_hit_ratio)
    if then is None or now is None:
        return None
    expected = planned[1].hit_ratio - planned[0].hit_ratio
    allowed = max(ERRORS * abs((noise.hit_ratio if noise else None) or 0.0), LEAST_HIT_ERROR)
    if now - then >= min(expected, 0.0) - allowed:
        return None
    return f"the hit ratio went from {then:.1%} to {now:.1%}, where the plan has {expected:+.1%}"


def _ttft_rose(
    before: EngineMetrics,
    after: EngineMetrics,
    planned: tuple[Point, Point],
    noise: PredictionError | None,
) -> str | None:
    then, now = known(before.ttft_mean_s), known(after.ttft_mean_s)
    if then is None or now is None or then <= 0 or planned[0].ttft is None or planned[1].ttft is None:
        return None
    expected = planned[1].ttft.mean / planned[0].ttft.mean - 1 if planned[0].ttft.mean else 0.0
    allowed = max(ERRORS * abs((noise.ttft if noise else None) or 0.0), LEAST_TTFT_ERROR)
    if now / then - 1 <= max(expected, 0.0) + allowed:
        return None
    return f"the mean TTFT went from {then:.3g} s to {now:.3g} s, where the plan has {expected:+.0%}"
