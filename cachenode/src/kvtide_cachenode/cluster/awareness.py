"""Which connections belong to a client that follows MOVED, though they never asked for the topology.

A cluster client asks for the slots once, on one connection, and then opens others: on those nothing says
what it is, but every key it sends is one that this node owns. A client that knows no cluster sends keys that
are spread over all nodes. `Evidence` weighs this: a node with the share p of the slots owns n different slots
by chance with a probability of p^n. From `ENOUGH_BITS` on chance is out of the question.
"""

from math import log2
from typing import Final

ENOUGH_BITS: Final = 40.0
# Where a node owns nearly everything, slots say little: after so many this is no cluster client.
MAX_SLOTS: Final = 1024


class Evidence:
    """What one connection's keys say: nothing yet, or that its client routes by the map."""

    def __init__(self) -> None:
        self._slots: set[int] = set()
        self._bits = 0.0

    @property
    def enough(self) -> bool:
        """Whether the client follows redirects beyond reasonable doubt."""
        return self._bits >= ENOUGH_BITS

    def owned(self, slot: int, bits: float) -> None:
        """A key of a slot came that this node owns; ``bits`` is what that is worth (`bits_of`)."""
        if self._bits < ENOUGH_BITS and slot not in self._slots and len(self._slots) < MAX_SLOTS:
            self._slots.add(slot)
            self._bits += bits

    def foreign(self) -> None:
        """A key came that this node does not own: what was weighed so far proves nothing."""
        self._slots.clear()
        self._bits = 0.0


def bits_of(owned_slots: int, all_slots: int) -> float:
    """How much one key of an owned slot says against chance, in bits."""
    return log2(all_slots / owned_slots) if owned_slots else 0.0
