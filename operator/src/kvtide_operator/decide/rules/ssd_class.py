"""The class of the SSD: changing it replaces every volume, so that only a lasting reason does it."""

from kvtide_operator.decide.outcomes import has_failed
from kvtide_operator.decide.rules.cool_down import LONGEST_COOL_DOWN_S
from kvtide_operator.decide.rules.gain import is_worth_it
from kvtide_operator.decide.situation import Recommendation, Situation
from kvtide_operator.decide.target import Target


def class_to(chosen: Recommendation, target: Target, situation: Situation) -> str | None:
    """The class that the SSD shall have: the chosen one where there is none yet, or where all agree.

    All are the recommendations of one whole downward window, which the loop must have watched.
    """
    now, wanted = situation.ssd_class, chosen.ssd_class
    if target.ssd_bytes == 0:
        return None
    if situation.here.ssd_bytes == 0 or now is None:
        return wanted
    declared = situation.spec.ssd.classes if situation.spec.ssd else ()
    if now not in declared:
        return wanted or declared[0]
    if wanted is None or not is_worth_it(situation) or _failed_lately(situation):
        return now
    window_s = situation.spec.scaling.down.stabilization
    if situation.now_s - situation.observing_since_s < window_s:
        return now
    recent = [each for each in situation.recommended if each.at_s > situation.now_s - window_s]
    return wanted if all(each.ssd_class == wanted for each in recent) else now


def _failed_lately(situation: Situation) -> bool:
    return any(
        decision.action == "ChangeClass"
        and has_failed(decision)
        and situation.now_s - decision.time < LONGEST_COOL_DOWN_S
        for decision in situation.decisions
    )
