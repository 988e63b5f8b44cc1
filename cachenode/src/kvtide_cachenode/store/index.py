"""The index: key to entry, in the order of an eviction policy."""

from itertools import islice

from kvtide_cachenode.eviction import Policy

# Cursors of this many iterations are remembered; starting one more forgets the oldest.
SCANS_REMEMBERED = 16


class Entry:
    """One value as the store holds it: inline bytes, or an extent of the arena.

    ``charge`` is what the entry costs the tier in bytes, key and metadata included. An extent with
    ``pins`` is being sent; it outlives its key until the last pin is gone (``live`` is then False).
    """

    __slots__ = ("charge", "inline", "key", "length", "live", "pins", "start")

    def __init__(self, key: bytes, length: int, charge: int, inline: bytes | None, start: int) -> None:
        self.key = key
        self.length = length
        self.charge = charge
        self.inline = inline
        self.start = start
        self.pins = 0
        self.live = True


class Index:
    """Entries by key. The policy is told of every change here and nowhere else."""

    def __init__(self, policy: Policy[bytes]) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._policy = policy
        self._scans: dict[int, list[bytes]] = {}
        self._next_scan = 1
        self.find = self._entries.get
        self.touched = policy.touched

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def insert(self, entry: Entry) -> None:
        """Add an entry whose key is absent."""
        assert entry.key not in self._entries, "insert over an entry"
        self._entries[entry.key] = entry
        self._policy.inserted(entry.key, entry.charge)

    def remove(self, key: bytes) -> Entry | None:
        """Take an entry out, None when the key is absent."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._policy.removed(key)
        return entry

    def victim(self) -> bytes | None:
        """The key that the policy gives up next."""
        return self._policy.victim()

    def entries(self) -> list[Entry]:
        """All entries, in no particular order."""
        return list(self._entries.values())

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """The next ``count`` keys of an iteration and the cursor to go on with, 0 at the end.

        An iteration walks the keys that were there when it began (cursor 0), so a key that stays is
        returned exactly once.

        Raises:
            KeyError: the cursor is unknown or was forgotten.
        """
        if cursor == 0:
            scan, at = self._next_scan, 0
            keys = list(self._entries)
        else:
            scan, at = cursor >> 32, cursor & 0xFFFFFFFF
            keys = self._scans[scan]
        page = [key for key in islice(keys, at, at + count) if key in self._entries]
        at += count
        if at >= len(keys):
            self._scans.pop(scan, None)
            return 0, page
        if cursor == 0:
            self._next_scan += 1
            self._scans[scan] = keys
            while len(self._scans) > SCANS_REMEMBERED:
                del self._scans[next(iter(self._scans))]
        return scan << 32 | at, page
