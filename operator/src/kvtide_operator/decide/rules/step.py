"""How far a dial may go at once."""

from kvtide_operator.decide.situation import Dials, Situation

INFERRED_SHARE = 0.5
"""Of ``maxStep``, where the trace is of the inferred grade: a wrong guess then costs half as much."""


def step_limited(dials: Dials, situation: Situation) -> Dials:
    """At most ``maxStep`` of what there is, at least one step of the tier.

    What begins at nothing goes to its goal at once: there is nothing that a wrong step could lose, the budget
    bounds what it costs, and a volume that starts small would wait for its provider before every later step.
    """
    share = situation.spec.scaling.max_step * (INFERRED_SHARE if situation.inferred else 1.0)
    return tuple(
        dial
        if dial.forced or dial.here == 0
        else dial.toward(
            one_step(dial.here, dial.to, dial.min, dial.max, dial.step, share),
            f"goes to {dial.text(dial.to)} in steps of {share:.3g} of what there is",
        )
        for dial in dials
    )


def one_step(here: int, to: int, least: int, most: int, step: int, share: float) -> int:
    """The amount after one step from ``here`` towards ``to``, never past it or a bound."""
    reach = max(int(here * share) // step, 1) * step
    if to > here:
        return min(to, here + reach, most)
    return max(to, here - reach, least)
