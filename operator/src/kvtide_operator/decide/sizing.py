"""May the tier move, how far, and why: bounds, stabilisation, minimum gain, step limit. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.api.tieredcache import Capacity, Scaling
from kvtide_operator.plan.proposal import Plan

Action = Literal["grow", "shrink", "hold"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a past plan chose, and when."""

    at_s: float
    dram_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One step, or the reason why there is none."""

    action: Action
    from_bytes: int
    to_bytes: int
    reason: str


def hold(current_bytes: int, reason: str) -> Decision:
    """Stay as it is, and say why."""
    return Decision("hold", current_bytes, current_bytes, reason)


def decide(
    plan: Plan,
    past: Sequence[Recommendation],
    *,
    now_s: float,
    capacity: Capacity,
    scaling: Scaling,
    observing_since_s: float,
) -> Decision:
    """The step from the current capacity towards the chosen point that the policy permits now.

    Args:
        plan: its ``current`` is where the cache is.
        past: earlier recommendations, oldest first; this plan's own need not be among them.
        now_s: the loop's clock.
        capacity: bounds and step of the tier.
        scaling: the policy.
        observing_since_s: when the loop began to see the cache. Nothing shrinks before one whole
            stabilisation window has passed since.
    """
    here = plan.current.configuration.dram_bytes
    if scaling.mode == "Manual":
        return hold(here, "mode is Manual")
    chosen = plan.chosen.configuration.dram_bytes
    target, waiting = _stabilised(chosen, here, past, now_s, scaling)
    target = min(max(target, capacity.min), capacity.max)
    if target == here:
        return hold(here, waiting or f"{_size(here)} is the chosen size")
    if target < here and now_s - observing_since_s < scaling.down.stabilization:
        return hold(
            here,
            f"would shrink to {_size(target)}, but watches for {scaling.down.stabilization:.0f} s "
            "before the first shrink",
        )
    within_bounds = capacity.min <= here <= capacity.max
    if within_bounds and plan.gain < scaling.minimum_gain:
        return hold(
            here,
            f"{_size(chosen)} would gain {plan.gain:.1%}, less than the minimum gain of "
            f"{scaling.minimum_gain:.0%}",
        )
    step = _one_step(here, target, capacity, scaling)
    if scaling.mode == "Advise":
        return hold(here, f"mode is Advise; would go to {_size(step)}: {plan.why}")
    return Decision("grow" if step > here else "shrink", here, step, plan.why)


def _stabilised(
    chosen: int, here: int, past: Sequence[Recommendation], now_s: float, scaling: Scaling
) -> tuple[int, str]:
    """The least ambitious of the recent recommendations in the direction of ``chosen``."""
    if chosen > here:
        lowest = min([chosen, *_since(past, now_s - scaling.up.stabilization)])
        return max(lowest, here), f"waits before growing to {_size(chosen)}: it was not needed all along"
    if chosen < here:
        highest = max([chosen, *_since(past, now_s - scaling.down.stabilization)])
        return min(highest, here), (
            f"waits before shrinking to {_size(chosen)}: more was needed within the last "
            f"{scaling.down.stabilization:.0f} s"
        )
    return here, ""


def _since(past: Sequence[Recommendation], from_s: float) -> list[int]:
    return [earlier.dram_bytes for earlier in past if earlier.at_s > from_s]


def _one_step(here: int, target: int, capacity: Capacity, scaling: Scaling) -> int:
    """At most ``maxStep`` of the current size, at least one step of the tier, never past the target."""
    reach = max(int(here * scaling.max_step) // capacity.step, 1) * capacity.step
    if target > here:
        return min(target, here + reach, capacity.max)
    return max(target, here - reach, capacity.min)


def _size(amount: int) -> str:
    if amount % (1 << 20) == 0:
        return format_quantity(amount)
    return f"{amount / (1 << 20):.1f}Mi"
