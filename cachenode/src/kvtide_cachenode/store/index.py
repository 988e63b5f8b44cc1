"""The index: key to entry, in the order of an eviction policy."""

from kvtide_cachenode.eviction import Policy


class Entry:
    """One value as the store holds it: inline bytes, or an extent of the arena.

    ``charge`` is what the entry costs the tier in bytes, key and metadata included. An extent with
    ``pins`` is being sent or written; it outlives its key until the last pin is gone (``live`` is then
    False). ``worth`` is for `eviction.admits`. What is ``leaving`` can still be read but was given up by the
    policy: it is on its way to the SSD tier, or there already.
    """

    __slots__ = ("charge", "inline", "key", "leaving", "length", "live", "pins", "start", "worth")

    def __init__(self, key: bytes, length: int, charge: int, inline: bytes | None, start: int) -> None:
        self.key = key
        self.length = length
        self.charge = charge
        self.inline = inline
        self.start = start
        self.pins = 0
        self.live = True
        self.worth = 0
        self.leaving = False


class Index:
    """Entries by key. The policy is told of every change here and nowhere else."""

    def __init__(self, policy: Policy[bytes]) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._policy = policy
        self.find = self._entries.get
        self.contains = self._entries.__contains__
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
        if entry is not None and not entry.leaving:
            self._policy.removed(key)
        return entry

    def let_go(self) -> Entry | None:
        """Take the next victim from the policy, not from the index; None when the policy has none."""
        key = self._policy.victim()
        if key is None:
            return None
        self._policy.removed(key)
        entry = self._entries[key]
        entry.leaving = True
        return entry

    def keep(self, entry: Entry) -> None:
        """Give an entry that was leaving back to the policy."""
        entry.leaving = False
        self._policy.inserted(entry.key, entry.charge)

    def victim(self) -> bytes | None:
        """The key that the policy gives up next."""
        return self._policy.victim()

    def hottest(self) -> list[bytes]:
        """All keys, the most precious first; those that are leaving come last."""
        leaving = [key for key, entry in self._entries.items() if entry.leaving]
        return [*self._policy.hottest(), *leaving]

    def keys(self) -> list[bytes]:
        """All keys, in no particular order."""
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """All entries, in no particular order."""
        return list(self._entries.values())
