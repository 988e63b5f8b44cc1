"""Which tier goes first, and what both may cost."""

from dataclasses import replace

from kvtide_operator.decide.situation import Dial, Dials, Situation
from kvtide_operator.decide.target import Target


def in_order(dials: Dials, situation: Situation) -> Dials:
    """Grow before shrinking: what leaves one tier then finds room in the other.

    Where the budget does not allow both at a time the shrink comes first, and makes room for it.
    """
    growing = any(dial.rises for dial in dials if dial.name != "ttl")
    shrinking = any(dial.falls for dial in dials if dial.name != "ttl" and not dial.forced)
    only_growth = tuple(_after(dial, "the other tier grows first") if dial.falls else dial for dial in dials)
    if not growing:
        return dials
    if within_budget(only_growth, situation):
        return only_growth if shrinking else dials
    why = f"would cost more than the budget of {situation.spec.objective.budget.tiers_per_hour} an hour"
    return tuple(dial.stay(f"{dial.text(dial.to)} {why}") if _grows(dial) else dial for dial in dials)


def within_budget(dials: Dials, situation: Situation) -> bool:
    """Whether the tiers cost no more than the budget, or no more than they do."""
    budget = situation.spec.objective.budget.tiers_per_hour
    if budget is None or situation.cost_per_hour is None:
        return True
    assert situation.plan is not None, "a rule follows a plan"
    tier_class = situation.ssd_class or situation.plan.chosen.configuration.tier_class
    now = situation.cost_per_hour(situation.here, tier_class)
    return situation.cost_per_hour(target_after(dials, situation.here), tier_class) <= max(float(budget), now)


def target_after(dials: Dials, here: Target) -> Target:
    """What the cache holds once the dials are where they are to go."""
    to = {dial.name: dial.to for dial in dials}
    ssd_bytes = to.get("ssd", here.ssd_bytes)
    ttl_s = None if ssd_bytes == 0 else float(to["ttl"]) if "ttl" in to else here.ttl_s
    return Target(to["dram"], ssd_bytes, ttl_s)


def _grows(dial: Dial) -> bool:
    return dial.rises and dial.name != "ttl" and not dial.forced


def _after(dial: Dial, reason: str) -> Dial:
    if dial.forced or dial.name == "ttl":
        return dial
    return replace(dial, to=dial.here, reason=f"would shrink to {dial.text(dial.to)}, but {reason}")
