"""The life of CachePlans: which phase each is in, which one may be applied, which ones can go. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kvtide_operator.api.cacheplan import CachePlan, CachePlanStatus, Phase, PlanSummary
from kvtide_operator.api.conditions import condition, merged
from kvtide_operator.api.moment import format_time
from kvtide_operator.api.point import Point
from kvtide_operator.api.quantity import rounded_quantity
from kvtide_operator.decide.target import Target, target_at

Mode = Literal["Manual", "Advise", "Auto"]

KEPT: Final = 10
"""CachePlans of a cache that are kept; older ones that are over are deleted."""

OVER: Final[tuple[Phase, ...]] = ("Superseded", "Expired", "RolledBack")
"""Phases without a way back."""

_REACHED: Final = "the cache has the chosen sizes"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the phases of a cache's plans follow from, besides the plans.

    Attributes:
        mode: of scaling.
        target: what the cache shall hold.
        settled: it does.
        minimum_gain: a share; sizes that differ by less are the same.
        contradicted: why the measured effect of the applied plan is not what was planned; None otherwise.
        at_s: seconds since the epoch.
    """

    mode: Mode
    target: Target
    settled: bool
    at_s: float
    minimum_gain: float
    contradicted: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What became of a cache's plans.

    Attributes:
        statuses: of every plan by name; to be written where it differs from what is there.
        active: the plan that the cache is to follow, or None: in ``Advise`` one that was approved.
        prune: names of plans that can be deleted.
    """

    statuses: Mapping[str, CachePlanStatus]
    active: CachePlan | None
    prune: tuple[str, ...]


def is_needed(chosen: Point, gain: float, plans: Sequence[CachePlan], minimum_gain: float) -> bool:
    """Whether a plan is to be written: it gains enough, and no plan says the same already.

    A plan that expired says nothing any more; one that was superseded or rolled back is not said again before
    its point moves or its validity ends.

    Args:
        chosen: the point that the planner chose.
        gain: by how much it is better than what is.
        plans: those there are, in any order.
        minimum_gain: a share; a point that moves by less is the same point.
    """
    if gain < minimum_gain:
        return False
    newest = max(plans, key=_age, default=None)
    if newest is None or phase_of(newest) == "Expired":
        return True
    return has_moved(newest.spec.point, chosen, minimum_gain)


def has_moved(before: Point, after: Point, minimum: float) -> bool:
    """Whether two points differ in class, or in a tier's size by more than a share ``minimum``."""
    if before.class_name != after.class_name:
        return True
    sizes = ((before.dram, after.dram), (before.ssd or 0, after.ssd or 0))
    return any(_differ(then, now, minimum) for then, now in sizes)


def phase_of(plan: CachePlan) -> Phase:
    """The phase a plan was last seen in."""
    return plan.status.phase if plan.status else "Proposed"


def review(plans: Sequence[CachePlan], now: Circumstances) -> Review:
    """The phases of all plans of a cache as of now."""
    newest_first = sorted(plans, key=_age, reverse=True)
    active = _active(newest_first, now)
    statuses: dict[str, CachePlanStatus] = {}
    newer: CachePlan | None = None
    lead = active if active is not None and _is_followed(active, now) else None
    followed = False
    for plan in newest_first:
        # An older plan may have been approved after this one was applied.
        heir = lead if lead is not plan and phase_of(plan) in ("Applying", "Applied") else None
        phase, why = _phase(
            plan, now, active=plan is active, newer=newer or heir, followed=followed or heir is not None
        )
        statuses[plan.metadata.name] = _status(plan, phase, why, now.at_s)
        newer = newer or (plan if phase not in OVER else None)
        followed = followed or phase in ("Applying", "Applied")
    over = [plan for plan in newest_first[KEPT:] if statuses[plan.metadata.name].phase in OVER]
    return Review(statuses, active, tuple(plan.metadata.name for plan in over))


def _active(newest_first: Sequence[CachePlan], now: Circumstances) -> CachePlan | None:
    """In ``Auto`` the newest plan that is not over, in ``Advise`` the newest such that was approved."""
    if now.mode == "Manual":
        return None
    for plan in newest_first:
        begun = phase_of(plan) in ("Applying", "Applied")
        over = phase_of(plan) in OVER or (_expired(plan, now) and not begun)
        if not over and (now.mode == "Auto" or plan.spec.approved):
            return plan
    return None


def _phase(
    plan: CachePlan, now: Circumstances, *, active: bool, newer: CachePlan | None, followed: bool
) -> tuple[Phase, str]:
    """The phase of one plan and a sentence on it.

    Args:
        plan: the plan.
        now: the rest of the world.
        active: the cache is to follow it.
        newer: the newest plan that is not over, where that is a newer one.
        followed: the cache follows a newer one already.
    """
    last = phase_of(plan)
    if last in OVER:
        return last, _still_over(plan, last)
    if last in ("Applying", "Applied"):
        if now.contradicted is not None and not followed:
            return "RolledBack", now.contradicted
        if followed or (last == "Applying" and not active):
            return "Superseded", _superseded_by(newer, now)
        return ("Applied", _REACHED) if last == "Applied" else _followed(plan, now)
    if active and _is_followed(plan, now):
        return _followed(plan, now)
    if newer is not None and not active:
        return "Superseded", _superseded_by(newer, now)
    return _waiting(plan, now)


def _is_followed(plan: CachePlan, now: Circumstances) -> bool:
    return _reached(plan, now) or _under_way(plan, now)


def _followed(plan: CachePlan, now: Circumstances) -> tuple[Phase, str]:
    if _reached(plan, now):
        return "Applied", _REACHED
    return "Applying", "the cache is on its way to the chosen sizes"


def _waiting(plan: CachePlan, now: Circumstances) -> tuple[Phase, str]:
    if _expired(plan, now):
        return (
            "Expired",
            f"it was valid until {format_time(plan.spec.valid_until)}; a new plan takes its place",
        )
    if now.mode == "Manual":
        return "Proposed", "mode is Manual: nothing is applied"
    if now.mode == "Advise" and not plan.spec.approved:
        return "Proposed", "mode is Advise: set spec.approved to true to have it applied"
    return ("Approved" if plan.spec.approved else "Proposed"), "it is applied as soon as the policy permits"


def _still_over(plan: CachePlan, phase: Phase) -> str:
    """What was said of a plan that is over; an approval that came too late is answered."""
    assert plan.status is not None, "only a reviewed plan is over"
    said = plan.status.conditions[0].message if plan.status.conditions else f"it is {phase}"
    late = "; the approval came too late, approve a newer plan"
    if plan.spec.approved and phase in ("Superseded", "Expired") and not said.endswith(late):
        return said + late
    return said


def _superseded_by(plan: CachePlan | None, now: Circumstances) -> str:
    if plan is None:
        return f"mode is {now.mode}: it is not followed any more"
    return f"{plan.metadata.name} takes its place"


def is_at(point: Point, target: Target, minimum: float) -> bool:
    """Whether a target has a point's sizes, or so nearly that no plan would be made of the rest."""
    chosen = target_at(point)
    sizes = ((target.dram_bytes, chosen.dram_bytes), (target.ssd_bytes, chosen.ssd_bytes))
    return not any(_differ(here, there, minimum) for here, there in sizes)


def saved(before: float, after: float) -> float:
    """The share of a cost that is saved."""
    return (before - after) / before if before else 0.0


def _reached(plan: CachePlan, now: Circumstances) -> bool:
    return now.settled and is_at(plan.spec.point, now.target, now.minimum_gain)


def _under_way(plan: CachePlan, now: Circumstances) -> bool:
    """Whether what is wanted is nearer to the chosen point than where the cache was."""
    chosen, before = target_at(plan.spec.point), target_at(plan.spec.baseline)
    sizes = (
        (now.target.dram_bytes, before.dram_bytes, chosen.dram_bytes),
        (now.target.ssd_bytes, before.ssd_bytes, chosen.ssd_bytes),
    )
    return any(abs(here - there) < abs(was - there) for here, was, there in sizes)


def _differ(one: int, other: int, share: float) -> bool:
    return abs(one - other) > share * max(one, other)


def _expired(plan: CachePlan, now: Circumstances) -> bool:
    return now.at_s >= plan.spec.valid_until


def _age(plan: CachePlan) -> tuple[float, str]:
    return plan.metadata.creation_timestamp, plan.metadata.name


def _status(plan: CachePlan, phase: Phase, why: str, at_s: float) -> CachePlanStatus:
    generation = plan.metadata.generation or None
    applied = condition(
        "Applied", "True" if phase == "Applied" else "False", phase, why, at_s=at_s, generation=generation
    )
    before = plan.status.conditions if plan.status else ()
    return CachePlanStatus(
        phase=phase,
        summary=_summary(plan),
        observed_generation=generation,
        conditions=merged(before, (applied,)),
    )


def _summary(plan: CachePlan) -> PlanSummary:
    chosen, before = plan.spec.point, plan.spec.baseline.tiers_per_hour
    return PlanSummary(
        dram=rounded_quantity(chosen.dram),
        ssd=rounded_quantity(chosen.ssd) if chosen.ssd else None,
        saves=f"{saved(before, chosen.tiers_per_hour):.1%}",
    )
