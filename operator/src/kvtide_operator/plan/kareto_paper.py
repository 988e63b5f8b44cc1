"""Algorithm 1 of Kareto as printed: adaptive Pareto exploration with diminishing-return pruning."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import isinf

from kvtide_operator.plan.explorer import Explorer
from kvtide_operator.plan.grid import even
from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.outcome import Outcome
from kvtide_operator.plan.space import SearchSpace

Spot = tuple[Fraction, Fraction]
"""DRAM and TTL as fractions of their ranges."""

MAX_ROUNDS = 64
"""Rounds of expansion and refinement; bisection reaches any minimum step in far fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KaretoPaper:
    """Kareto, section 4.2, Algorithm 1. The paper prints no thresholds; the values here are ours.

    A difference of two latencies, throughputs or costs is relative to the larger of them, cost includes the
    GPUs, adjacent are nearest neighbours of equal TTL or of equal DRAM, and midpoints keep a minimum step.

    Attributes:
        tau_expand: relative gain in mean TTFT of the last DRAM step above which another one follows.
        tau_perf: relative difference in mean TTFT or throughput above which a pair is refined.
        tau_cost: relative difference in cost above which it is.
        start_points: points of the start grid on each axis.
        start_dram: where the start grid ends, as a share of the DRAM range; the paper's half.
        start_ttl: where it ends on the TTL axis; the paper's two thirds.
        min_dram_step: least distance of refined points as a share of the DRAM range.
        min_ttl_step: least distance on the TTL axis.
        max_evaluations: per SSD class.
    """

    tau_expand: float = 0.05
    tau_perf: float = 0.05
    tau_cost: float = 0.02
    start_points: int = 5
    start_dram: Fraction = Fraction(1, 2)
    start_ttl: Fraction = Fraction(2, 3)
    min_dram_step: Fraction = Fraction(1, 32)
    min_ttl_step: Fraction = Fraction(1, 60)
    max_evaluations: int = 200

    def limit(self, space: SearchSpace) -> int:
        """At most this many evaluations."""
        return self.max_evaluations * len(space.media)

    def explore(self, explorer: Explorer, space: SearchSpace, bounds: Bounds) -> None:  # noqa: ARG002
        """Run Algorithm 1 once for every SSD class."""
        for medium in space.media:
            _Exploration(self, explorer, space, medium).run()


class _Exploration:
    """One run of Algorithm 1: ``spots`` is its S, ``pending`` its C; P is the explorer's memo."""

    def __init__(
        self, options: KaretoPaper, explorer: Explorer, space: SearchSpace, medium: str | None
    ) -> None:
        self.options = options
        self.explorer = explorer
        self.space = space
        self.medium = medium
        self.spots: set[Spot] = set()
        self.ttls = even(options.start_points, options.start_ttl) if medium else [Fraction(0)]
        self.step = options.start_dram / max(options.start_points - 1, 1)

    def run(self) -> None:
        pending = {
            (dram, ttl)
            for dram in even(self.options.start_points, self.options.start_dram)
            for ttl in self.ttls
        }
        for _ in range(MAX_ROUNDS):
            if not pending:
                return
            self.explorer.evaluate(self.space.configuration(*spot, self.medium) for spot in sorted(pending))
            self.spots |= pending
            pending = (self._expansion() | self._refinement()) - self.spots

    def _outcome(self, spot: Spot) -> Outcome:
        return self.explorer.outcome(self.space.configuration(*spot, self.medium))

    def _expansion(self) -> set[Spot]:
        sizes = sorted({dram for dram, ttl in self.spots if ttl == 0})
        before, last = sizes[-1] - self.step, sizes[-1]
        if (before, Fraction(0)) not in self.spots or last + self.step > 1:
            return set()
        gain = _difference(
            self._outcome((before, Fraction(0))).ttft_mean_s, self._outcome((last, Fraction(0))).ttft_mean_s
        )
        if gain <= self.options.tau_expand:
            return set()
        return {(last + self.step, ttl) for ttl in self.ttls}

    def _refinement(self) -> set[Spot]:
        found = set()
        for one, other in self._adjacent():
            if self._differ(self._outcome(one), self._outcome(other)):
                found.add(((one[0] + other[0]) / 2, (one[1] + other[1]) / 2))
        return found

    def _adjacent(self) -> list[tuple[Spot, Spot]]:
        """Nearest neighbours on every line of equal TTL and of equal DRAM that are far enough apart."""
        along_dram = pairwise(sorted(self.spots, key=lambda spot: (spot[1], spot[0])))
        along_ttl = pairwise(sorted(self.spots))
        reach_dram, reach_ttl = 2 * self.options.min_dram_step, 2 * self.options.min_ttl_step
        return [(a, b) for a, b in along_dram if a[1] == b[1] and b[0] - a[0] >= reach_dram] + [
            (a, b) for a, b in along_ttl if a[0] == b[0] and b[1] - a[1] >= reach_ttl
        ]

    def _differ(self, one: Outcome, other: Outcome) -> bool:
        latency = _difference(one.ttft_mean_s, other.ttft_mean_s)
        throughput = _difference(one.throughput_tok_s, other.throughput_tok_s)
        cost = _difference(one.cost_per_hour, other.cost_per_hour)
        return max(latency, throughput) > self.options.tau_perf and cost > self.options.tau_cost


def _difference(one: float, other: float) -> float:
    """Relative to the larger of two non-negative numbers; infinite only one of them, 1."""
    if one == other:
        return 0.0
    larger = max(one, other)
    return 1.0 if isinf(larger) else abs(one - other) / larger
