"""Where the log has which key: columns of numbers, 32 bytes an entry beside the key and its dictionary."""

from array import array
from collections.abc import Callable, Iterator

from kvtide_cachenode.contract.sizing import SSD_ENTRY_BYTES, SSD_KEY_BYTES
from kvtide_cachenode.store.ssd.record import record_bytes

# The segment number of a row that holds no entry.
FREE = 0xFFFFFFFF
# Type codes of the columns, in their order in a snapshot.
COLUMN_TYPES = "IIIIQd"


class LogIndex:
    """Keys and their rows. The columns are public and indexed by row.

    ``segment`` (number) and ``page`` say where the record is, ``length`` the value's bytes, ``group`` its TTL
    group, ``sequence`` its age, ``used_at_s`` when it was written or last read (Unix time). ``appeared`` and
    ``vanished`` are told of keys that come and go, all at once (`clear`) excepted.
    """

    def __init__(self) -> None:
        self.appeared: Callable[[bytes], None] = _unwatched
        self.vanished: Callable[[bytes], None] = _unwatched
        self._cleared: list[tuple[dict[bytes, int], list[bytes]]] = []
        self._begin()

    def _begin(self) -> None:
        self.long_keys_bytes = 0
        self.rows: dict[bytes, int] = {}
        self.keys: list[bytes] = []
        self.segment = array("I")
        self.page = array("I")
        self.length = array("I")
        self.group = array("I")
        self.sequence = array("Q")
        self.used_at_s = array("d")
        self._appends = [column.append for column in self.columns()]
        self._free: list[int] = []
        self._members: dict[int, array[int]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def memory_bytes(self) -> int:
        """What the entries count for in memory."""
        return len(self.rows) * SSD_ENTRY_BYTES + self.long_keys_bytes

    def columns(self) -> tuple["array[int] | array[float]", ...]:
        """All columns in the order of `COLUMN_TYPES`."""
        return self.segment, self.page, self.length, self.group, self.sequence, self.used_at_s

    def insert(
        self, key: bytes, place: tuple[int, int], length: int, group: int, sequence: int, used_at_s: float
    ) -> None:
        """Add a key that is not there; ``place`` is (segment number, page)."""
        assert key not in self.rows, "insert over an entry"
        if self._free:
            row = self._free.pop()
        else:
            row = len(self.keys)
            self.keys.append(b"")
            for append in self._appends:
                append(0)
        self.appeared(key)
        self.rows[key] = row
        self.keys[row] = key
        self.long_keys_bytes += max(len(key) - SSD_KEY_BYTES, 0)
        self.length[row] = length
        self.group[row] = group
        self.used_at_s[row] = used_at_s
        self.move(row, place, sequence)

    def move(self, row: int, place: tuple[int, int], sequence: int) -> None:
        """Say that an entry is somewhere else now."""
        self.segment[row], self.page[row] = place
        self.sequence[row] = sequence
        self._members.setdefault(place[0], array("I")).append(row)

    def remove(self, row: int) -> None:
        """Forget an entry."""
        key = self.keys[row]
        del self.rows[key]
        self.vanished(key)
        self.long_keys_bytes -= max(len(key) - SSD_KEY_BYTES, 0)
        self.keys[row] = b""
        self.segment[row] = FREE
        self._free.append(row)

    def adopt(self) -> None:
        """Rebuild everything else after ``keys`` and the columns were filled from a snapshot."""
        segment, keys, members = self.segment, self.keys, self._members
        for row, number in enumerate(segment):
            if number == FREE:
                self._free.append(row)
            else:
                self.rows[keys[row]] = row
                self.long_keys_bytes += max(len(keys[row]) - SSD_KEY_BYTES, 0)
                if number not in members:
                    members[number] = array("I")
                members[number].append(row)

    def used_until(self, now_s: float) -> None:
        """No use was later than ``now_s``: an earlier process's clock may have been ahead of this one's."""
        if max(self.used_at_s, default=now_s) > now_s:
            self.used_at_s = array("d", [min(used_at_s, now_s) for used_at_s in self.used_at_s])

    def clear(self) -> None:
        """Forget all entries, in no time; `free` gives back what they take."""
        self._cleared.append((self.rows, self.keys))
        self._begin()

    def free(self, count: int) -> bool:
        """Give back a slice of what `clear` forgot; whether there is more."""
        if self._cleared:
            rows, keys = self._cleared[-1]
            del keys[-count:]
            for _ in range(min(count, len(rows))):
                rows.popitem()
            if not (rows or keys):
                self._cleared.pop()
        return bool(self._cleared)

    def members(self, number: int) -> list[int]:
        """Rows whose record is in a segment."""
        listed = dict.fromkeys(self._members.get(number, ()))
        return [row for row in listed if self.segment[row] == number]

    def drop_members(self, number: int, at_most: int | None = None) -> int | None:
        """Forget entries of a segment that is gone, all or a slice of them.

        Returns the bytes of their records, None when there are no more.
        """
        members = self._members.get(number)
        if not members:
            self._members.pop(number, None)
            return None
        first = 0 if at_most is None else max(len(members) - at_most, 0)
        size = 0
        for row in members[first:]:
            if self.segment[row] == number:
                size += self.record_bytes(row)
                self.remove(row)
        del members[first:]
        return size

    def record_bytes(self, row: int) -> int:
        """Size of an entry's record on the disk."""
        return record_bytes(len(self.keys[row]), self.length[row])

    def sample(self, count: int) -> Iterator[int]:
        """About ``count`` rows with entries, evenly spread over the rows."""
        stride = max(1, len(self.keys) // count)
        return (row for row in range(0, len(self.keys), stride) if self.segment[row] != FREE)


def _unwatched(_key: bytes) -> None:
    """Nobody wants to know of keys."""
