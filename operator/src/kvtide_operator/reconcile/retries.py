"""When a step that was refused is tried again: at the pace of passes that fail."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kvtide_operator.act.kubernetes.execute import Ending, Outcome
from kvtide_operator.decide.steps import DeleteClaim, ExpandClaim, Refused, Step

FIRST_S: Final = 1.0
"""After the first refusal; doubled with each one more in a row."""
LONGEST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Refusal:
    refused: Refused
    times: int
    until_s: float


class Retries:
    """Of one cache: what was refused, of whom, and until when it rests."""

    def __init__(self) -> None:
        self._by_concern: dict[tuple[str, str], _Refusal] = {}

    def resting(self, now_s: float) -> tuple[Refused, ...]:
        """The refusals that are not to be tried again yet."""
        return tuple(one.refused for one in self._by_concern.values() if now_s < one.until_s)

    @property
    def any(self) -> bool:
        """Whether something will be tried again."""
        return bool(self._by_concern)

    def learn(self, outcomes: Iterable[Outcome], now_s: float) -> None:
        """Take in how the steps of a pass ended; what rested and is not asked for any more is forgotten."""
        before = self._by_concern
        now = {concern: one for concern, one in before.items() if now_s < one.until_s}
        for outcome in outcomes:
            if not isinstance(outcome.what, Step):
                continue
            concern = _concern(outcome.what)
            if outcome.ending is not Ending.REFUSED:
                now.pop(concern, None)
                continue
            times = before[concern].times + 1 if concern in before else 1
            wait_s = min(FIRST_S * 2.0 ** min(times - 1, 10), LONGEST_S)
            refused = Refused(outcome.what, outcome.sentence)
            now[concern] = _Refusal(refused, times, now_s + wait_s)
        self._by_concern = now


def _concern(step: Step) -> tuple[str, str]:
    """What is done to whom: the next try has another version of it, perhaps another size."""
    if isinstance(step, ExpandClaim | DeleteClaim):
        return type(step).__name__, step.claim
    return type(step).__name__, getattr(step, "pod", "")
