"""How far the simulator is from what is measured, of the configuration that is in effect: every round tells.

The plan simulates the present configuration on the very window whose metrics are read.
"""

from dataclasses import dataclass
from typing import Final

from kvtide_operator.api.status import PredictionError
from kvtide_operator.plan.outcome import Outcome
from kvtide_operator.world.metrics import EngineMetrics, known

NEWEST_WEIGHT: Final = 0.2
"""Of the newest error in the running mean: half of an old error is forgotten after three rounds, nine tenths
after ten, so that neither one odd window nor the month before decides."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured in a window; None is not known.

    Attributes:
        hit_ratio: comparable with `Outcome.prefix_hit_ratio` of the same trace.
        ttft_mean_s: mean time to first token.
    """

    hit_ratio: float | None
    ttft_mean_s: float | None


def measured(metrics: EngineMetrics | None, seen_hit_ratio: float | None, *, inferred: bool) -> Measured:
    """What a plan's figures are compared with.

    A trace of the inferred grade lacks what GPU caches hit, so that its hit ratio is that of the tiers below;
    engines that tell the trace also tell their hits.

    Args:
        metrics: of the engines; None where none are declared.
        seen_hit_ratio: what engines said in the trace.
        inferred: the grade of the trace.
    """
    if metrics is None:
        return Measured(seen_hit_ratio, None)
    reading = metrics.external_hit_ratio if inferred else metrics.prefix_hit_ratio
    ratio = known(reading) if seen_hit_ratio is None else seen_hit_ratio
    return Measured(ratio, known(metrics.ttft_mean_s))


def deviation(simulated: Outcome, seen: Measured) -> PredictionError:
    """Measured less simulated: the hit ratio in absolute terms, the mean TTFT as a share of the measured.

    An unstable simulation has no TTFT to compare.
    """
    hit_ratio = None if seen.hit_ratio is None else seen.hit_ratio - simulated.prefix_hit_ratio
    ttft = None
    if seen.ttft_mean_s is not None and seen.ttft_mean_s > 0 and simulated.stable:
        ttft = 1.0 - simulated.ttft_mean_s / seen.ttft_mean_s
    return PredictionError(hit_ratio=hit_ratio, ttft=ttft)


def smoothed(noise: PredictionError | None, newest: PredictionError) -> PredictionError:
    """The running mean of the error's magnitude; the first counts as it is, an unknown one not at all."""
    before = noise or PredictionError()
    return PredictionError(
        hit_ratio=_mean(before.hit_ratio, newest.hit_ratio), ttft=_mean(before.ttft, newest.ttft)
    )


def _mean(before: float | None, newest: float | None) -> float | None:
    if newest is None:
        return before
    if before is None:
        return abs(newest)
    return (1 - NEWEST_WEIGHT) * abs(before) + NEWEST_WEIGHT * abs(newest)
