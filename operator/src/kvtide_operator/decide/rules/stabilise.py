"""The least ambitious of recent recommendations: a dial goes where all of them would have gone.

As in the HorizontalPodAutoscaler, upwards and downwards each have a window of their own.
"""

from collections.abc import Iterable

from kvtide_operator.api.tieredcache import Scaling
from kvtide_operator.decide.situation import Dial, Dials, Situation


def stabilised(dials: Dials, situation: Situation) -> Dials:
    """Hold back what was not wanted during the whole window."""
    return tuple(_one(dial, situation) for dial in dials)


def _one(dial: Dial, situation: Situation) -> Dial:
    if dial.forced:
        return dial
    past = [(earlier.at_s, earlier.amount(dial.name)) for earlier in situation.recommended]
    amount = least_ambitious(dial.to, dial.here, past, situation.now_s, situation.spec.scaling)
    return dial.toward(amount, waiting(dial, situation.spec.scaling))


def least_ambitious(
    wanted: int, here: int, past: Iterable[tuple[float, int]], now_s: float, scaling: Scaling
) -> int:
    """The nearest to ``here`` of ``wanted`` and the past ones within the window of its direction."""
    window_s = scaling.up.stabilization if wanted > here else scaling.down.stabilization
    recent = [amount for at_s, amount in past if at_s > now_s - window_s]
    if wanted > here:
        return max(min([wanted, *recent]), here)
    return min(max([wanted, *recent]), here)


def waiting(dial: Dial, scaling: Scaling) -> str:
    """Why a dial does not go all the way."""
    if dial.rises:
        return f"waits before growing to {dial.text(dial.to)}: it was not needed all along"
    return (
        f"waits before shrinking to {dial.text(dial.to)}: more was needed within the last "
        f"{scaling.down.stabilization:.0f} s"
    )


def first_window(dials: Dials, situation: Situation) -> Dials:
    """After a start nothing shrinks before one whole window was watched: what came before is not known."""
    window_s = situation.spec.scaling.down.stabilization
    if situation.now_s - situation.observing_since_s >= window_s:
        return dials
    return tuple(
        dial.stay(
            f"would shrink to {dial.text(dial.to)}, but watches for {window_s:.0f} s before the first shrink"
        )
        if dial.falls and not dial.forced
        else dial
        for dial in dials
    )
