"""Which entries that leave DRAM are worth writing to the SSD. Pure; the names are the simulator's.

An entry's worth is two bits. `TOUCHED_TWICE`: it was asked for at least twice, evictions in between or not.
`REUSED`: it was asked for again while it was in DRAM.
"""

from array import array
from typing import Final, Literal
from zlib import crc32

SsdWrites = Literal["always", "secondTouch", "reusedOnly"]

TOUCHED_TWICE: Final = 1
REUSED: Final = 2
NEEDED_WORTH: Final[dict[SsdWrites, int]] = {
    "always": 0,
    "secondTouch": TOUCHED_TWICE,
    "reusedOnly": REUSED,
}
"""The bits of its worth that an entry needs to be written."""

# Keys remembered: 2 bytes each. A key whose place is taken by another is forgotten, so with as many keys as
# places a third of them are; one in 65,535 unknown keys that meets a taken place passes for known.
REMEMBERED_KEYS: Final = 1 << 18


def is_written(writes: SsdWrites, worth: int) -> bool:
    """Whether an entry of this worth is written."""
    needed = NEEDED_WORTH[writes]
    return worth & needed == needed


class History:
    """Which keys came in before: a table of fingerprints, one key a place, the later one wins."""

    def __init__(self, places: int = REMEMBERED_KEYS) -> None:
        self._fingerprints = array("H", bytes(2 * places))

    def seen(self, key: bytes) -> bool:
        """Whether the key was asked about before (and not forgotten since); it is remembered now."""
        number = crc32(key)
        place, fingerprint = number % len(self._fingerprints), crc32(key, 1) % 0xFFFF + 1
        known = self._fingerprints[place] == fingerprint
        self._fingerprints[place] = fingerprint
        return known
