"""The declared bounds: nothing goes beyond them, and what lies beyond comes back."""

from kvtide_operator.decide.situation import Dials, Situation
from kvtide_operator.decide.target import clamped


def bounded(dials: Dials, _: Situation) -> Dials:
    """Keep every dial within what its tier declares."""
    return tuple(
        dial.toward(
            clamped(dial.to, dial.min, dial.max),
            f"{dial.text(dial.to)} is outside the bounds {dial.text(dial.min)} to {dial.text(dial.max)}",
        )
        for dial in dials
    )
