"""From what was found to one point: the constraints, the objective, and what was given up for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kvtide_operator.plan.outcome import Candidate, Outcome, objectives_of
from kvtide_operator.plan.pareto import frontier

Prefer = Literal["Cost", "Latency", "Throughput", "Balanced"]

FLAT = 0.05
"""An objective that varies by less than this share over the feasible points has no say in the knee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What the chosen point must keep; None asks for nothing.

    A stable queue, and no more writes than an SSD class's endurance allows, are always asked for.
    """

    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    throughput_tok_s: float | None = None
    storage_cost_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen point and why.

    Attributes:
        chosen: the feasible point that fits the objective; where none is feasible, of those that come nearest
            to the constraints (within `FLAT`) the one that does.
        feasible: whether the chosen point keeps all constraints.
        excluded: how many points each constraint rules out, by its name; a point may break several.
        why: one sentence.
    """

    chosen: Candidate
    feasible: bool
    excluded: dict[str, int]
    why: str


def select(candidates: Sequence[Candidate], constraints: Constraints, prefer: Prefer) -> Selection:
    """The point to take of all that were evaluated.

    All of them, not the frontier alone: a constraint on a percentile may rule out every point of a frontier
    of means. Of the points that keep the constraints only the non-dominated can be chosen.
    """
    assert candidates
    rules = _rules(constraints, wears=any(c.outcome.endurance_used is not None for c in candidates))
    excluded = {name: sum(excess(c.outcome) > 0 for c in candidates) for name, excess in rules.items()}
    feasible = [c for c in candidates if all(excess(c.outcome) <= 0 for excess in rules.values())]
    if not feasible:
        chosen = _preferred(frontier(_nearest(candidates, rules)), prefer)
        broken = [name for name, excess in rules.items() if excess(chosen.outcome) > 0]
        stable = [c.outcome for c in candidates if c.outcome.stable]
        reach = "; ".join(_best(name, stable, constraints) for name in broken if stable or name == "stable")
        return Selection(
            chosen,
            False,
            excluded,
            f"infeasible: {reach}; chosen is {_REASONS[prefer]} of the sizes that come nearest",
        )
    front = frontier(feasible)
    chosen = _preferred(front, prefer)
    ruled_out = ", ".join(f"{name} {count}" for name, count in excluded.items() if count)
    return Selection(
        chosen,
        True,
        excluded,
        f"{_REASONS[prefer]} of {len(feasible)} feasible points"
        + (f"; ruled out by {ruled_out}" if ruled_out else ""),
    )


_REASONS = {
    "Cost": "the cheapest",
    "Latency": "the lowest mean TTFT",
    "Throughput": "the highest throughput",
    "Balanced": "the knee",
}


def _rules(constraints: Constraints, *, wears: bool) -> dict[str, Callable[[Outcome], float]]:
    """By name, how far an outcome exceeds a limit, relative to the limit; 0 or less keeps it.

    ``wears``: some SSD class has an endurance.
    """

    def at_most(limit: float, value: Callable[[Outcome], float]) -> Callable[[Outcome], float]:
        return lambda outcome: (value(outcome) - limit) / max(limit, 1e-12)

    rules: dict[str, Callable[[Outcome], float]] = {"stable": lambda outcome: 0.0 if outcome.stable else 1.0}
    if wears:
        rules["endurance"] = at_most(1.0, lambda outcome: outcome.endurance_used or 0.0)
    if constraints.ttft_mean_s is not None:
        rules["ttft_mean_s"] = at_most(constraints.ttft_mean_s, lambda outcome: outcome.ttft_mean_s)
    if constraints.ttft_p50_s is not None:
        rules["ttft_p50_s"] = at_most(constraints.ttft_p50_s, lambda outcome: outcome.ttft_p50_s)
    if constraints.ttft_p99_s is not None:
        rules["ttft_p99_s"] = at_most(constraints.ttft_p99_s, lambda outcome: outcome.ttft_p99_s)
    if constraints.storage_cost_per_hour is not None:
        rules["storage_cost_per_hour"] = at_most(
            constraints.storage_cost_per_hour, lambda outcome: outcome.storage_cost_per_hour
        )
    if constraints.throughput_tok_s is not None:
        floor = constraints.throughput_tok_s
        rules["throughput_tok_s"] = lambda outcome: (floor - outcome.throughput_tok_s) / max(floor, 1e-12)
    return rules


def _nearest(
    candidates: Sequence[Candidate], rules: dict[str, Callable[[Outcome], float]]
) -> Sequence[Candidate]:
    """The points whose sum of relative excesses is the least, or differs from it by no more than `FLAT`.

    Any stable point is nearer than the unstable ones. Latencies mean nothing there: the nearest of those are
    the ones that serve most.
    """
    stable = [c for c in candidates if c.outcome.stable]
    if not stable:
        most = max(c.outcome.throughput_tok_s for c in candidates)
        return [c for c in candidates if c.outcome.throughput_tok_s >= most * (1 - FLAT)]
    far = [_miss(c.outcome, rules) for c in stable]
    return [c for c, miss in zip(stable, far, strict=True) if miss <= min(far) * (1 + FLAT)]


def _miss(outcome: Outcome, rules: dict[str, Callable[[Outcome], float]]) -> float:
    """One and the sum of the relative excesses: what is off by as much as the limit itself has 2."""
    return 1.0 + sum(max(rule(outcome), 0.0) for rule in rules.values())


def equally_near(one: Outcome, other: Outcome, constraints: Constraints) -> bool:
    """Whether two outcomes that break constraints come as near to them, within `FLAT`."""
    rules = _rules(constraints, wears=True)
    near, far = sorted((_miss(one, rules), _miss(other, rules)))
    return one.stable == other.stable and far <= near * (1 + FLAT)


def missed(outcome: Outcome, constraints: Constraints) -> str:
    """Which constraints an outcome breaks, and by how much; empty where it keeps all."""
    said = []
    for name, excess in _rules(constraints, wears=outcome.endurance_used is not None).items():
        far = excess(outcome)
        if far <= 0 or (not outcome.stable and name.startswith("ttft")):
            continue
        if name == "stable":
            said.append("a queue that grows")
        elif name == "endurance":
            said.append(f"{outcome.endurance_used:.0%} of the endurance written")
        else:
            label, unit = _LIMITS[name]
            side = "below" if name == "throughput_tok_s" else "above"
            value, limit = getattr(outcome, name), getattr(constraints, name)
            said.append(f"{label} of {value:.4g}{unit}, {far:,.0%} {side} {limit:.4g}{unit}")
    return " and ".join(said)


def _best(name: str, stable: Sequence[Outcome], constraints: Constraints) -> str:
    """How near any size comes to a limit that is not kept."""
    if name == "stable":
        return "the queue grows at every size"
    if name == "endurance":
        least = min(o.endurance_used or 0.0 for o in stable)
        return f"the least any size writes is {least:.0%} of the endurance"
    label, unit = _LIMITS[name]
    limit = getattr(constraints, name)
    best = (max if name == "throughput_tok_s" else min)(getattr(o, name) for o in stable)
    reached = best >= limit if name == "throughput_tok_s" else best <= limit
    who = "no size that keeps the others" if reached else "no size"
    return f"{who} reaches {label} of {limit:.4g}{unit}, best {best:.4g}{unit}"


_LIMITS = {
    "ttft_mean_s": ("a mean TTFT", " s"),
    "ttft_p50_s": ("a TTFT p50", " s"),
    "ttft_p99_s": ("a TTFT p99", " s"),
    "throughput_tok_s": ("a throughput", " tokens/s"),
    "storage_cost_per_hour": ("a storage cost", " an hour"),
}


def _preferred(front: Sequence[Candidate], prefer: Prefer) -> Candidate:
    if prefer == "Cost":
        return min(front, key=lambda c: (c.outcome.cost_per_hour, c.outcome.ttft_mean_s))
    if prefer == "Latency":
        return min(front, key=lambda c: (c.outcome.ttft_mean_s, c.outcome.cost_per_hour))
    if prefer == "Throughput":
        return min(front, key=lambda c: (-c.outcome.throughput_tok_s, c.outcome.cost_per_hour))
    return _knee(front)


def _knee(front: Sequence[Candidate]) -> Candidate:
    """The point farthest from the plane through the extremes, towards the ideal (Das 1999).

    With each objective scaled to [0, 1] over the front the extremes are the unit points, and that distance is
    greatest where the sum of the objectives is least. Cost is scaled without what all points share.
    """
    values = objectives_of(front)
    extent = np.ptp(values, axis=0)
    flat = extent <= FLAT * np.abs(values).max(axis=0)
    # The GPUs' share of the cost is in all points; beside it storage would look flat.
    flat[0] = extent[0] == 0
    scaled = np.where(flat, 0.0, (values - values.min(axis=0)) / np.where(extent > 0, extent, 1.0))
    return front[int(np.argmin(scaled.sum(axis=1)))]


def write_through_warning(dram_bytes: int, instances: int, gpu_cache_bytes: int) -> str | None:
    """Under ``writeThrough`` DRAM holds a copy of every GPU cache: below their sum it adds no hits."""
    gpu_bytes = instances * gpu_cache_bytes
    if dram_bytes == 0 or dram_bytes >= gpu_bytes:
        return None
    return (
        f"DRAM of {dram_bytes / (1 << 30):.1f} GiB is below the {gpu_bytes / (1 << 30):.1f} GiB that "
        f"{instances} GPU caches hold: under writeThrough it buys nothing; raise it above or offload onEvict"
    )
