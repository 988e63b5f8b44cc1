"""After a failure, the same is not tried again for a while; the past is read from the status' decisions."""

from collections.abc import Iterator

from kvtide_operator.api.moment import format_time
from kvtide_operator.api.status import DecisionStatus, Sizes
from kvtide_operator.decide.outcomes import TAKEN_BACK, has_failed
from kvtide_operator.decide.situation import Dial, Dials, Situation

COOL_DOWN_S = 600.0
"""After the first failure: longer than a kubelet's retries of a refused shrink, or than most bursts."""
LONGEST_COOL_DOWN_S = 4 * 3600.0
"""Each further failure among the last ten decisions doubles it, up to this: 10, 20, 40, 80, 160, 240 min."""


def cooled_down(dials: Dials, situation: Situation) -> Dials:
    """Hold every dial that would go where it failed to go lately."""
    return tuple(dial if dial.forced else _one(dial, situation) for dial in dials)


def _one(dial: Dial, situation: Situation) -> Dial:
    failures = list(_failures(dial, situation))
    if not failures:
        return dial
    newest = failures[0]
    wait_s = min(COOL_DOWN_S * 2 ** (len(failures) - 1), LONGEST_COOL_DOWN_S)
    until_s = newest.time + wait_s
    if situation.now_s >= until_s:
        return dial
    times = "once" if len(failures) == 1 else f"{len(failures)} times"
    return dial.stay(
        f"does not go to {dial.text(dial.to)} before {format_time(until_s)}: failed or undone {times}"
    )


def _failures(dial: Dial, situation: Situation) -> Iterator[DecisionStatus]:
    """Those that speak against the direction in which the dial is to go, newest first."""
    for decision in situation.decisions:
        change = _amount(decision.after, dial) - _amount(decision.before, dial)
        if decision.action in TAKEN_BACK:
            change = -change
        elif not has_failed(decision):
            continue
        if (dial.rises and change > 0) or (dial.falls and change < 0):
            yield decision


def _amount(sizes: Sizes, dial: Dial) -> int:
    return {"dram": sizes.dram, "ssd": sizes.ssd or 0, "ttl": round(sizes.ttl or 0.0)}[dial.name]
