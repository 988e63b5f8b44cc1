"""Room for a value while it is being received."""

from dataclasses import dataclass
from typing import Final

from kvtide_cachenode.store.arena import LEAD_BYTES, extent_bytes

# Room is made for what comes, not for what was announced: at most this much ahead.
GRANT_BYTES: Final = 1024 * 1024
# The parser brings so much before it asks for more room.
FIRST_BYTES: Final = 72 * 1024
# A value of at most this length has all its room at once, rounding included.
AT_ONCE_BYTES: Final = GRANT_BYTES * 15 // 16
# For one receive of a client at most so many entries are evicted in a turn: some milliseconds.
EVICTED_AT_ONCE: Final = 1024


class CapacityError(Exception):
    """A value does not fit: it is larger than the tier, or what is there cannot be evicted now."""


@dataclass(slots=True)
class Reservation:
    """An extent that a value is being received into; nobody sees it before `Store.commit`.

    ``memory`` is as long as the value, but only its first ``granted_bytes`` may be written so far:
    `Store.grow` makes room for more. ``charge`` is what it costs the tier now.
    """

    memory: memoryview
    start: int
    charge: int
    granted_bytes: int


def extent_grant(length: int, to_bytes: int) -> int:
    """How much of its extent a value of ``length`` bytes may use so that its first ``to_bytes`` have room."""
    size = extent_bytes(length)
    if not to_bytes:
        return min(size, FIRST_BYTES)
    return size if to_bytes >= length else min(size, -(-(LEAD_BYTES + to_bytes) // GRANT_BYTES) * GRANT_BYTES)
