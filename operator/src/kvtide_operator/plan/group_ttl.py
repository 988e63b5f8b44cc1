"""A TTL per group of blocks: Kareto's ROI-aware tuner (section 4.3, Algorithm 2), a bound and a greedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from kvtide_operator.plan.miss_stream import MissStream
from kvtide_operator.plan.retention import RetentionCurve

MIN_GAIN = 0.01
"""Group TTLs that gain less than this on the past they were fitted to lose on the future more often than not:
fitted on the first half of the Mooncake conversation trace and tested on the second."""

KNOTS = 64
"""Quantiles between which H_g and C_g are interpolated for the solver: their steps have no gradient."""

APART = 1e-9
"""The least distance of two of them, as a share of T_max: closer ones would coincide in `_Smoothed`."""

PERTURBATION = 0.5
"""Spread of the random starts: the log of each start's factor on a TTL is normal with this deviation."""

BISECTIONS = 60
"""Halvings of an interval of TTLs or factors: beyond a float's precision."""

SOLVER_ITERATIONS = 60
"""SLSQP steps from one start; its result is used as it is at the limit."""


@dataclass(frozen=True, slots=True)
class GroupTtl:
    """TTLs that share a budget of block-seconds.

    Attributes:
        ttl_s: one TTL per group.
        independent_hits: reuses within their TTL, counted without prefix continuity: an objective, not hits.
        block_seconds: what they take.
    """

    ttl_s: tuple[float, ...]
    independent_hits: int
    block_seconds: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the tuner found, and what to hold it against.

    Attributes:
        roi: Algorithm 2's answer.
        greedy: envelope segments in order of hits per block-second, as long as they fit.
        uniform: the longest single TTL that fits.
        bound_hits: no choice of TTLs within the budget has more independent hits.
    """

    roi: GroupTtl
    greedy: GroupTtl
    uniform: GroupTtl
    bound_hits: float

    @property
    def best(self) -> GroupTtl:
        """What to use: the better of Algorithm 2 and the greedy, if it clearly betters the uniform TTL."""
        better = max(self.greedy, self.roi, key=lambda found: found.independent_hits)
        worth_it = better.independent_hits > self.uniform.independent_hits * (1 + MIN_GAIN)
        return better if worth_it else self.uniform


def curves_of(stream: MissStream, row_group: NDArray[np.int8], groups: int) -> list[RetentionCurve]:
    """The exact curve of every group; ``row_group`` is int8[rows of the stream]."""
    members = [row_group == group for group in range(groups)]
    return [RetentionCurve.exact(stream.reuse_s[rows], stream.hold_s[rows]) for rows in members]


def tune(
    curves: Sequence[RetentionCurve], budget_block_seconds: float, ttl_max_s: float, seed: int
) -> Tuning:
    """Spread ``budget_block_seconds`` over the groups.

    Args:
        curves: one per group.
        budget_block_seconds: B of eq. 3; for "the same budget as a uniform TTL", that TTL's cost.
        ttl_max_s: T_max.
        seed: of the random starts.
    """
    assert curves
    assert ttl_max_s > 0
    problem = _Problem(tuple(curves), budget_block_seconds, ttl_max_s)
    greedy, bound = problem.greedy()
    return Tuning(
        roi=problem.roi_aware(np.random.default_rng(seed)),
        greedy=greedy,
        uniform=problem.uniform(),
        bound_hits=bound,
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """Eq. 3: maximise the sum of H_g(t_g) subject to the sum of C_g(t_g) <= B, 0 <= t_g <= T_max."""

    curves: tuple[RetentionCurve, ...]
    budget: float
    ttl_max_s: float

    def cost(self, ttl: NDArray[np.float64]) -> float:
        return float(sum(curve.block_seconds(t) for curve, t in zip(self.curves, ttl, strict=True)))

    def answer(self, ttl: NDArray[np.float64]) -> GroupTtl:
        hits = sum(int(curve.hits(t)) for curve, t in zip(self.curves, ttl, strict=True))
        return GroupTtl(tuple(float(t) for t in ttl), hits, self.cost(ttl))

    def uniform(self) -> GroupTtl:
        whole = np.full(len(self.curves), self.ttl_max_s)
        return self.answer(self._largest_factor(whole, 1.0) * whole)

    def projected(self, ttl: NDArray[np.float64]) -> NDArray[np.float64]:
        """``ttl`` scaled to the budget, then each TTL lowered to where its last hit is: that costs no hit."""
        ttl = np.clip(ttl, 0.0, self.ttl_max_s)
        least = ttl[ttl > 0].min(initial=self.ttl_max_s)
        most = self.ttl_max_s / max(least, APART * self.ttl_max_s)
        scaled = np.minimum(self._largest_factor(ttl, most) * ttl, self.ttl_max_s)
        return np.array(
            [
                curve.hit_gap_s[hits - 1] if (hits := int(curve.hits(t))) else 0.0
                for curve, t in zip(self.curves, scaled, strict=True)
            ]
        )

    def _largest_factor(self, ttl: NDArray[np.float64], most: float) -> float:
        """The largest factor up to ``most`` at which ``ttl`` fits the budget; cost never falls with it."""
        if self.cost(np.minimum(most * ttl, self.ttl_max_s)) <= self.budget:
            return most
        low, high = 0.0, most
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.cost(np.minimum(middle * ttl, self.ttl_max_s)) <= self.budget:
                low = middle
            else:
                high = middle
        return low

    def roi_aware(self, random: np.random.Generator) -> GroupTtl:
        """Algorithm 2: SLSQP from the scaled ROI start and floor(sqrt K) + 1 perturbations of it."""
        roi = np.array([_roi_ttl_s(curve, self.ttl_max_s) for curve in self.curves])
        unscaled = self.cost(roi)
        start = roi * (self.budget / unscaled) if unscaled > 0 else roi
        groups = len(self.curves)
        starts = [start] + [
            start * np.exp(random.normal(0.0, PERTURBATION, groups)) for _ in range(isqrt(groups - 1) + 1)
        ]
        smooth = _Smoothed(self)
        solved = [self.projected(smooth.solve(np.clip(each, 0.0, self.ttl_max_s))) for each in starts]
        # The solver may leave a good start for a worse point of the true, stepped objective.
        answers = [self.answer(ttl) for ttl in [*solved, self.projected(start)]]
        return max(answers, key=lambda found: found.independent_hits)

    def _as_far_as(self, group: int, ttl_s: float, left: float) -> float:
        """The last breakpoint of a group that ``left`` block-seconds more than those of ``ttl_s`` pay for."""
        curve = self.curves[group]
        breakpoints = curve.breakpoints(self.ttl_max_s)
        affordable = curve.block_seconds(breakpoints) <= curve.block_seconds(ttl_s) + left
        return max(ttl_s, float(breakpoints[affordable][-1]))

    def greedy(self) -> tuple[GroupTtl, float]:
        """The greedy's answer, and the bound: the LP relaxation of a multiple-choice knapsack."""
        steps: list[tuple[float, int, float, float, float]] = []
        for group, curve in enumerate(self.curves):
            ttl = curve.envelope(self.ttl_max_s)
            cost, hits = np.diff(curve.block_seconds(ttl)), np.diff(curve.hits(ttl))
            steps += [
                (-gain / max(price, 1e-12), group, float(price), float(gain), float(until))
                for price, gain, until in zip(cost, hits, ttl[1:], strict=True)
            ]
        chosen = np.zeros(len(self.curves))
        stopped = np.zeros(len(self.curves), dtype=np.bool_)
        left = self.budget
        bound = float(sum(curve.hits(0.0) for curve in self.curves))
        bound_left = self.budget
        for _, group, price, gain, until in sorted(steps):
            share = min(1.0, bound_left / price) if price > 0 else 1.0
            bound += gain * share
            bound_left -= price * share
            if stopped[group]:
                continue
            if price > left:
                stopped[group] = True
                until = self._as_far_as(group, chosen[group], left)
                price = float(np.diff(self.curves[group].block_seconds(np.array([chosen[group], until])))[0])
            chosen[group] = until
            left -= price
        return self.answer(chosen), bound


def _roi_ttl_s(curve: RetentionCurve, ttl_max_s: float) -> float:
    """argmax of H_g / C_g; between two breakpoints hits stay and cost grows, so one of them has it."""
    ttl = curve.breakpoints(ttl_max_s)
    cost = curve.block_seconds(ttl)
    ratio = np.divide(curve.hits(ttl), cost, out=np.zeros(len(ttl)), where=cost > 0)
    return float(ttl[np.argmax(ratio)])


class _Smoothed:
    """Eq. 3 with H_g and C_g linear between quantiles of the reuse gaps, in units of T_max, hits and budget.

    The knots of all groups lie one after another, group ``g``'s shifted by 2 g, so that one binary search
    places all TTLs.
    """

    def __init__(self, problem: _Problem) -> None:
        all_hits = max(sum(int(curve.hits(problem.ttl_max_s)) for curve in problem.curves), 1)
        budget = max(problem.budget, 1e-12)
        knots = [_knots(curve, problem.ttl_max_s) for curve in problem.curves]
        pairs = list(zip(problem.curves, knots, strict=True))
        self._ttl_max_s = problem.ttl_max_s
        self._shift = 2.0 * np.arange(len(knots))
        self._knots = np.concatenate(
            [ttl / problem.ttl_max_s + shift for ttl, shift in zip(knots, self._shift, strict=True)]
        )
        self._last = np.cumsum([len(ttl) for ttl in knots]) - 1
        self._hits = np.concatenate([curve.hits(ttl) / all_hits for curve, ttl in pairs])
        self._costs = np.concatenate([curve.block_seconds(ttl) / budget for curve, ttl in pairs])

    def solve(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """TTLs in seconds where SLSQP ends up from ``start``."""
        result = minimize(
            lambda x: -self._sum(self._hits, x),
            start / self._ttl_max_s,
            jac=lambda x: -self._slopes(self._hits, x),
            bounds=[(0.0, 1.0)] * len(start),
            constraints={
                "type": "ineq",
                "fun": lambda x: 1.0 - self._sum(self._costs, x),
                "jac": lambda x: -self._slopes(self._costs, x),
            },
            method="SLSQP",
            options={"maxiter": SOLVER_ITERATIONS, "ftol": 1e-6},
        )
        return np.asarray(np.clip(np.nan_to_num(result.x), 0.0, 1.0) * self._ttl_max_s)

    def _right(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """The knot to the right of each TTL."""
        right = np.searchsorted(self._knots, x + self._shift, side="right")
        return np.asarray(np.minimum(right, self._last), dtype=np.int64)

    def _slopes(self, values: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        right = self._right(x)
        return np.asarray(np.diff(values)[right - 1] / np.diff(self._knots)[right - 1])

    def _sum(self, values: NDArray[np.float64], x: NDArray[np.float64]) -> float:
        right = self._right(x)
        beyond = self._knots[right] - self._shift - x
        return float((values[right] - self._slopes(values, x) * beyond).sum())


def _knots(curve: RetentionCurve, ttl_max_s: float) -> NDArray[np.float64]:
    """From 0 to ``ttl_max_s``, ascending, no two of them closer than `APART`."""
    ttl = curve.breakpoints(ttl_max_s)
    picked = ttl[np.unique(np.linspace(0, len(ttl) - 1, min(len(ttl), KNOTS)).astype(np.int64))]
    apart_s = APART * ttl_max_s
    inner = picked[(picked > apart_s) & (np.append(np.diff(picked), np.inf) > apart_s)]
    return np.concatenate([[0.0], inner[inner < ttl_max_s - apart_s], [ttl_max_s]])
