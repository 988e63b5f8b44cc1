"""Iterations over the keys of a changing store."""

from collections.abc import Callable
from itertools import islice

# Cursors of this many iterations are remembered; starting one more forgets the oldest.
SCANS_REMEMBERED = 16


class Scans:
    """``keys`` lists all keys, ``exists`` says whether one is still there."""

    def __init__(self, keys: Callable[[], list[bytes]], exists: Callable[[bytes], bool]) -> None:
        self._keys = keys
        self._exists = exists
        self._under_way: dict[int, list[bytes]] = {}
        self._next = 1

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """The next ``count`` keys of an iteration and the cursor to go on with, 0 at the end.

        An iteration walks the keys that were there when it began (cursor 0), so a key that stays is
        returned exactly once.

        Raises:
            KeyError: the cursor is unknown or was forgotten.
        """
        if cursor == 0:
            scan, at = self._next, 0
            keys = self._keys()
        else:
            scan, at = cursor >> 32, cursor & 0xFFFFFFFF
            keys = self._under_way[scan]
        page = [key for key in islice(keys, at, at + count) if self._exists(key)]
        at += count
        if at >= len(keys):
            self._under_way.pop(scan, None)
            return 0, page
        if cursor == 0:
            self._next += 1
            self._under_way[scan] = keys
            while len(self._under_way) > SCANS_REMEMBERED:
                del self._under_way[next(iter(self._under_way))]
        return scan << 32 | at, page
