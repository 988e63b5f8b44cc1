"""What became of a pass or a round that failed: one word and one sentence, for status, event and metric."""

from dataclasses import dataclass

from kvtide_operator.act.kubernetes.errors import ApiError
from kvtide_operator.simulate.errors import SimulationError


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
