"""The index of DRAM: key to entry, in the order of an eviction policy."""

from collections.abc import Container, Iterator

from kvtide_cachenode.placement import Policy
from kvtide_cachenode.store.form import RAW, Form
from kvtide_cachenode.store.keys import PAGE_KEYS, Keys


class Entry:
    """One value as the store holds it: inline bytes, or an extent of the arena, in some ``form``.

    ``plain`` is the value as it was stored, where that needs no work; `Store.decoded` gives it in every case.

    ``charge`` is what the entry costs the tier in bytes, key and metadata included. An entry with ``pins`` is
    being sent or written; it outlives its key until the last pin is gone (``live`` is then False). ``worth``
    is for `placement.is_written`. What is ``leaving`` can still be read but was given up by the policy: it is
    on its way to the SSD tier, or there already.
    """

    __slots__ = (
        "charge",
        "form",
        "inline",
        "key",
        "leaving",
        "length",
        "live",
        "pins",
        "plain",
        "start",
        "worth",
    )

    def __init__(self, key: bytes, length: int, charge: int, inline: bytes | None, start: int) -> None:
        self.key = key
        self.length = length
        self.charge = charge
        self.inline = inline
        self.plain = inline
        self.start = start
        self.pins = 0
        self.live = True
        self.form: Form = RAW
        self.worth = 0
        self.leaving = False


class Index:
    """Entries by key. The policy is told of every change here and nowhere else.

    ``keys`` are the keys of all tiers, ``below`` says which of them another tier has: a key is taken out of
    ``keys`` when neither has it. Everything here shares one object for one key.
    """

    def __init__(self, policy: Policy[bytes], below: Container[bytes] = ()) -> None:
        self.policy = policy
        self.keys = Keys()
        self._entries: dict[bytes, Entry] = {}
        self._below = below
        self.drained = False
        self.find = self._entries.get
        self.contains = self._entries.__contains__
        self.touched = policy.touched

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def put(self, entry: Entry) -> Entry | None:
        """Add an entry; the one that its key had before, which is in use by nobody now."""
        key, entries = entry.key, self._entries
        old = entries.get(key)
        entries[key] = entry
        if old is None:
            if key not in self._below:
                self.keys.add(key)
            self.policy.inserted(key, entry.charge)
            return None
        entry.key = old.key
        if old.leaving:
            self.policy.inserted(old.key, entry.charge)
        else:
            self.policy.replaced(old.key, entry.charge)
        return old

    def remove(self, key: bytes) -> Entry | None:
        """Take an entry out, None when the key is absent."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if not entry.leaving:
            self.policy.removed(key)
        if key not in self._below:
            self.keys.remove(key)
        return entry

    def appeared_below(self, key: bytes) -> None:
        """Another tier has a key that it had not; it says so before ``below`` does."""
        if key not in self._entries:
            self.keys.add(key)

    def vanished_below(self, key: bytes) -> None:
        """Another tier has lost a key."""
        if key not in self._entries:
            self.keys.remove(key)

    def let_go(self) -> Entry | None:
        """Take the next victim from the policy, not from the index; None when the policy has none."""
        key = self.policy.victim()
        if key is None:
            return None
        self.policy.removed(key)
        entry = self._entries[key]
        entry.leaving = True
        return entry

    def keep(self, entry: Entry) -> None:
        """Give an entry that was leaving back to the policy."""
        entry.leaving = False
        self.policy.inserted(entry.key, entry.charge)

    def victim(self) -> bytes | None:
        """The key that the policy gives up next."""
        return self.policy.victim()

    def hottest(self) -> Iterator[list[bytes]]:
        """The keys in pages, the most precious first; those that are leaving come last."""
        for keys in self.policy.hottest():
            self.touched = self.policy.touched  # it may be another one while keys are listed
            yield keys
        self.touched = self.policy.touched
        for page in self.keys.pages(PAGE_KEYS):
            entries = map(self._entries.get, page)
            yield [entry.key for entry in entries if entry is not None and entry.leaving]

    def entries(self) -> list[Entry]:
        """All entries, in no particular order; for checks."""
        return list(self._entries.values())

    def drain(self, count: int) -> list[Entry]:
        """Take up to ``count`` entries out of an index that nobody uses any more, until it is ``drained``."""
        entries, policy = self._entries, self.policy
        taken = [entries.popitem()[1] for _ in range(min(count, len(entries)))]
        for entry in taken:
            if not entry.leaving:
                policy.removed(entry.key)
        more = self.keys.drop(count)
        self.drained = not (entries or more)
        return taken
