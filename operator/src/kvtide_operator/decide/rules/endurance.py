"""An SSD that is written more than its medium stands does not grow."""

from kvtide_operator.decide.situation import Dials, Situation


def endured(dials: Dials, situation: Situation) -> Dials:
    """Hold the SSD and its TTL where the chosen point would wear it out.

    The planner excludes such points; it chooses one only where no point keeps all constraints.
    """
    assert situation.plan is not None, "a rule follows a plan"
    used = situation.plan.chosen.outcome.endurance_used
    if used is None or used <= 1:
        return dials
    return tuple(
        dial.stay(f"{dial.text(dial.to)} would be written at {used:.0%} of the class's endurance")
        if dial.rises and dial.name != "dram"
        else dial
        for dial in dials
    )
