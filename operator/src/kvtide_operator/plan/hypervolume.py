"""How good a set of points is: the volume it dominates in (cost, mean TTFT, -throughput)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV

from kvtide_operator.plan.outcome import OBJECTIVES, Candidate, objectives_of

REFERENCE = 1.01
"""Every axis of the reference point. A little beyond the worst bound, so that a point on the bound counts."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where each objective is 0 and where it is 1, known from the inputs alone.

    No search can move them, so that hypervolumes of different searches compare.

    Attributes:
        cost_per_hour: with the least and with the most capacity.
        ttft_s: zero load with an infinite cache, and ten times zero load without one.
        throughput_tok_s: the offered load; 0 is the other bound.
    """

    cost_per_hour: tuple[float, float]
    ttft_s: tuple[float, float]
    throughput_tok_s: float

    def scaled(self, objectives: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[points, 3]: 0 at the best bound and 1 at the worst; better than the best is 0."""
        low = np.array([self.cost_per_hour[0], self.ttft_s[0], -self.throughput_tok_s])
        high = np.array([self.cost_per_hour[1], self.ttft_s[1], 0.0])
        span = high - low
        # An axis without extent (one capacity, no load) tells no points apart.
        return np.asarray(np.maximum((objectives - low) / np.where(span > 0, span, 1.0), 0.0))


@dataclass(frozen=True, slots=True)
class Hypervolume:
    """A hypervolume and what it was measured in.

    Attributes:
        value: volume of the scaled space that the points dominate.
        axes: the objectives; without TTFT where no point is stable.
        reference: the reference point, in scaled units.
    """

    value: float
    axes: tuple[str, ...]
    reference: tuple[float, ...]


def hypervolume(candidates: Sequence[Candidate], bounds: Bounds) -> Hypervolume:
    """The hypervolume of the stable candidates, or of all on cost and throughput where none is stable."""
    stable = [c for c in candidates if c.outcome.stable]
    columns = [0, 1, 2] if stable else [0, 2]
    scaled = bounds.scaled(objectives_of(stable or candidates))[:, columns]
    return Hypervolume(
        value=dominated_volume(scaled),
        axes=tuple(OBJECTIVES[column] for column in columns),
        reference=(REFERENCE,) * len(columns),
    )


def dominated_volume(scaled: NDArray[np.float64]) -> float:
    """Volume between the points (float64[points, axes], scaled) and the reference; 0 for no points."""
    inside = scaled[(scaled < REFERENCE).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    return float(HV(ref_point=np.full(scaled.shape[1], REFERENCE))(inside))
