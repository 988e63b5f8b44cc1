"""From a situation to what the whole cache shall hold next, with a reason for every tier. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from kvtide_operator.api.quantity import format_duration
from kvtide_operator.decide.rules.bounds import bounded
from kvtide_operator.decide.rules.break_even import breaks_even
from kvtide_operator.decide.rules.cool_down import cooled_down
from kvtide_operator.decide.rules.endurance import endured
from kvtide_operator.decide.rules.gain import is_worth_it, worth_it
from kvtide_operator.decide.rules.inputs import OBSTACLES
from kvtide_operator.decide.rules.order import in_order, target_after
from kvtide_operator.decide.rules.ssd_class import class_to
from kvtide_operator.decide.rules.stabilise import first_window, stabilised
from kvtide_operator.decide.rules.step import step_limited
from kvtide_operator.decide.situation import (
    Dial,
    Dials,
    Rule,
    Situation,
    dials_toward,
    groups_of,
    least_of,
    recommendation_of,
)
from kvtide_operator.decide.target import GroupTtls, Target, clamped, target_with, within

Action = Literal["Hold", "Grow", "Shrink", "Retain", "ChangeClass", "TurnOff", "RollBack"]

RULES: Final[Sequence[Rule]] = (
    endured,
    stabilised,
    bounded,
    worth_it,
    breaks_even,
    first_window,
    cooled_down,
    step_limited,
    in_order,
)
"""In the order in which they speak. Whether a move is worth it is asked of the whole of it, how far it goes
now only of what is left; guards come before the limits that they may be exempt from."""


IDLE_RULES: Final[Sequence[Rule]] = (stabilised, bounded, first_window, cooled_down, step_limited)
"""Of an idle cache: there is no plan whose gain could be asked for."""


@dataclass(frozen=True, slots=True)
class TierDecision:
    """What becomes of one dial, as people write it, and why."""

    tier: Literal["dram", "ssd", "ttl"]
    action: Literal["grow", "shrink", "hold"]
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a cache.

    Attributes:
        action: of the whole cache; ``Hold`` leaves ``target`` where it was.
        target: what the cache shall hold now.
        ssd_class: the class that its SSD shall have.
        tiers: one for each dial.
        reason: one sentence on the whole.
    """

    action: Action
    target: Target
    ssd_class: str | None
    tiers: tuple[TierDecision, ...]
    reason: str


def judge(situation: Situation) -> Verdict:
    """The next step of a cache: where its plan leads, as far as every rule permits."""
    for obstacle in OBSTACLES:
        why = obstacle(situation)
        if why is not None:
            return _hold(situation, why)
    undone = _undone(situation)
    if undone is not None:
        return undone
    plan = situation.plan
    if plan is None:
        return _idle(situation)
    chosen = recommendation_of(plan.chosen, situation.now_s)
    dials = dials_toward(chosen.target, situation)
    for rule in RULES:
        dials = rule(dials, situation)
    target = target_after(dials, situation.here)
    if situation.here.ssd_bytes == 0 < target.ssd_bytes:
        assert situation.spec.ssd is not None, "a dial of an SSD tier"
        ttl = situation.spec.ssd.ttl
        target = replace(target, ttl_s=clamped(chosen.ttl_s, ttl.min, ttl.max) or ttl.max)
    target = replace(target, groups=_groups(target, situation))
    ssd_class = class_to(chosen, target, situation)
    return _advised(situation, dials, target, ssd_class, plan.why)


def _idle(situation: Situation) -> Verdict:
    """Without requests nothing is worth more than the least that was declared. No plan says so to approve."""
    least = least_of(situation.spec, situation.here, situation.now_s)
    dials = dials_toward(least.target, situation)
    for rule in IDLE_RULES:
        dials = rule(dials, situation)
    target = target_after(dials, situation.here)
    target = replace(target, groups=situation.here.groups if target.ssd_bytes else None)
    why = f"idle: no requests within {format_duration(situation.spec.scaling.window)}"
    ssd_class = situation.ssd_class if target.ssd_bytes else None
    return _advised(
        replace(situation, approved=False),
        dials,
        target,
        ssd_class,
        why,
        at_rest=f"{why}, and {_text(situation.here)} is the least that is declared",
    )


def _groups(target: Target, situation: Situation) -> GroupTtls | None:
    """The TTLs of the chosen point's subtrees, where it is worth it and one whole window was watched."""
    assert situation.plan is not None, "an obstacle otherwise"
    if target.ssd_bytes == 0:
        return None
    watched_s = situation.now_s - situation.observing_since_s
    if watched_s < situation.spec.scaling.down.stabilization or not is_worth_it(situation):
        return situation.here.groups
    return groups_of(situation.plan)


def _undone(situation: Situation) -> Verdict | None:
    """Back to before the last moves, once their measured effect contradicts what was planned.

    At once, however many steps they were: the cache was there minutes ago.
    """
    if situation.contradiction is None:
        return None
    spec, before = situation.spec, situation.contradiction.back_to
    back = within(target_with(before), spec)
    declared = spec.ssd.classes if spec.ssd else ()
    ssd_class = before.ssd_class if before.ssd_class in declared else situation.ssd_class
    if (back, ssd_class) == (situation.here, situation.ssd_class):
        return None
    reason = f"takes the last move back: {situation.contradiction.why}"
    dials = dials_toward(back, situation)
    return _advised(situation, dials, back, ssd_class, reason, action="RollBack")


def _advised(
    situation: Situation,
    dials: Dials,
    target: Target,
    ssd_class: str | None,
    why: str,
    action: Action | None = None,
    at_rest: str = "",
) -> Verdict:
    """The verdict, or in mode Advise what it would be; ``at_rest`` says why nothing moves or waits."""
    if action is None:
        action = _action(situation, dials, target, ssd_class)
    tiers = tuple(_decision(dial, why) for dial in dials)
    if action == "Hold":
        waits = "; ".join(dict.fromkeys(dial.reason for dial in dials if dial.reason))
        why = waits or at_rest or f"{_text(situation.here)} is the chosen size"
    else:
        why = next((dial.guard for dial in dials if dial.guard and dial.to != dial.here), why)
    if action == "Hold" or (situation.spec.scaling.mode == "Advise" and not situation.approved):
        if action != "Hold":
            why = f"mode is Advise; would go to {_text(target)}: {why}"
        held = tuple(replace(tier, action="hold", after=tier.before) for tier in tiers)
        return Verdict("Hold", situation.here, situation.ssd_class, held, why)
    return Verdict(action, target, ssd_class, tiers, why)


def _hold(situation: Situation, why: str) -> Verdict:
    here = situation.here
    dials = tuple(replace(dial, reason=why) for dial in dials_toward(here, situation))
    tiers = tuple(_decision(dial, why) for dial in dials)
    return Verdict("Hold", here, situation.ssd_class, tiers, why)


def _action(situation: Situation, dials: Dials, target: Target, ssd_class: str | None) -> Action:
    if any(dial.forced and dial.falls for dial in dials):
        return "TurnOff"
    sizes = [dial for dial in dials if dial.name != "ttl"]
    if any(dial.rises for dial in sizes):
        return "Grow"
    if any(dial.falls for dial in sizes):
        return "Shrink"
    if situation.here.ssd_bytes and ssd_class != situation.ssd_class:
        return "ChangeClass"
    return "Hold" if target == situation.here else "Retain"


def _decision(dial: Dial, why: str) -> TierDecision:
    action: Literal["grow", "shrink", "hold"] = "grow" if dial.rises else "shrink" if dial.falls else "hold"
    if action == "hold":
        reason = dial.reason or f"{dial.text(dial.here)} is what is wanted"
    else:
        reason = "; ".join(filter(None, (dial.guard or why, dial.reason)))
    return TierDecision(dial.name, action, dial.text(dial.here), dial.text(dial.to), reason)


def _text(target: Target) -> str:
    """A target as people write it."""
    dram = Dial("dram", 0, 0, 0, 0, 1)
    ssd = f" and {dram.text(target.ssd_bytes)} of SSD" if target.ssd_bytes else ""
    ttl = f" for {format_duration(target.ttl_s)}" if target.ssd_bytes and target.ttl_s is not None else ""
    groups = f" at most, by {len(target.groups.by_root)} subtrees" if target.groups else ""
    return f"{dram.text(target.dram_bytes)} of DRAM{ssd}{ttl}{groups}"
