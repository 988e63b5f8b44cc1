"""How the status' decisions say what came of them."""

from typing import Final

from kvtide_operator.api.status import DecisionStatus

FAILED: Final = "failed: "
"""How the outcome of a decision begins that could not be carried out; a sentence follows."""
TAKEN_BACK: Final = ("RollBack", "TurnOff")
"""Actions that undo something: what they undid is not to be done again."""


def has_failed(decision: DecisionStatus) -> bool:
    """Whether it could not be carried out."""
    return (decision.outcome or "").startswith(FAILED)
