"""What became of a pass or a round that failed: one word and one sentence, for status, event and metric."""

from dataclasses import dataclass
from typing import Any

from kvtide_operator.act.kubernetes.errors import ApiError
from kvtide_operator.api.conditions import condition
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.world.kinds import Raw


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done.

    Attributes:
        reason: one word in CamelCase, of few.
        sentence: for people.
        expected: whether this can happen to a program without a defect.
    """

    reason: str
    sentence: str
    expected: bool = True


def failure_of(error: Exception) -> Failure:
    """What to say of an exception that ended a pass or a round."""
    if isinstance(error, ApiError):
        return Failure(type(error).__name__.removesuffix("Error"), str(error))
    if isinstance(error, SimulationError | ValueError):
        return Failure("CannotPlan", str(error))
    return Failure(
        "InternalError", f"a defect of the operator, whose log has more: {error!r}", expected=False
    )


def stalled_status(raw: Raw, failure: Failure, now_s: float) -> dict[str, Any]:
    """The status as it was, but for the sentence on what is in the way."""
    status = dict(raw.get("status", {}))
    generation = raw["metadata"].get("generation")
    stalled = condition(
        "Stalled", "True", failure.reason, failure.sentence, at_s=now_s, generation=generation
    )
    before = [one for one in status.get("conditions", ()) if one.get("type") == "Stalled"]
    if before and (before[0]["status"], before[0].get("message")) == ("True", stalled.message):
        return status
    others = [one for one in status.get("conditions", ()) if one.get("type") != "Stalled"]
    return {
        **status,
        "conditions": [*others, stalled.model_dump(mode="json", by_alias=True, exclude_none=True)],
    }
