"""Which block a key belongs to, and which part of it: the key formats of the clients that are known. Pure.

A block is stored in parts, one for each rank of a model that is spread over several workers, and some clients
keep a value in several keys. All parts of a block share its name. An engine does to all of them what it does
to the first, so the others tell nothing of its requests.
"""

import re
from hashlib import blake2b
from typing import Final

REMEMBERED_KEYS: Final = 8_192  # of each of two generations: a key is looked up, loaded and stored
MAX_REMEMBERED_KEY_BYTES: Final = 256
MAX_PARTS: Final = 4_096
MAX_PART_BYTES: Final = 64

_HICACHE: Final = re.compile(rb"([0-9a-f]{64}\S*_.+)_([0-9]+)_([0-9]+)")
_KV_RANK: Final = re.compile(rb"[0-9a-f]{8}")


def split(key: bytes) -> tuple[bytes, bytes | None]:
    """The name of the block that a key belongs to, and of the part; the latter is empty where none is known.

    None stands for parts that repeat the first: of other ranks, of other layers, of a value whose description
    is asked for with it.

    * ours: ``kvt:model:layout:rank:root:depth:hash``, where a rank is ``0-4x1``
    * LMCache: ``model@world_size@rank@hash@dtype[@layer][@tags]``, with the suffix ``metadata`` or
      ``kv_bytes`` through ``redis://``
    * LMCache's server: ``model@kv_rank@object_group@hash[@salt]``; a kv_rank is four bytes in hexadecimal:
      workers, rank, and both again on the machine
    * SGLang's storage backends: ``hash_model_rank_size``
    """
    if key.startswith(b"kvt:"):
        words = key.split(b":")
        if len(words) == 7:
            part, words[3] = words[3], b""
            return b":".join(words), part if _is_first(part.split(b"-", 1)[0]) else None
    elif b"@" in key:
        return _split_lmcache(key)
    elif key[64:65] == b"_" and (match := _HICACHE.fullmatch(key)):
        return b"%b_%b" % (match[1], match[3]), match[2] if _is_first(match[2]) else None
    return key, b""


def _is_first(number: bytes) -> bool:
    return not number.isdigit() or not number.strip(b"0")


def _split_lmcache(key: bytes) -> tuple[bytes, bytes | None]:
    suffix = key[-8:]
    if suffix in (b"metadata", b"kv_bytes"):
        key = key[:-8]
    else:
        suffix = b""
    words = key.split(b"@")
    if len(words) in (4, 5) and _KV_RANK.fullmatch(words[1]):
        rank, group = words[1], words[2]
        words[1], words[2] = rank[:2] + rank[4:6], b""
        is_first = rank[2:4] == b"00" and suffix != b"kv_bytes"
        return b"@".join(words), b"%b@%b%b" % (rank, group, suffix) if is_first else None
    if len(words) < 5 or not (words[1].isdigit() and words[2].isdigit()):
        return key, suffix
    rank, words[2], layer = words[2], b"", b""
    for at in dict.fromkeys((5, len(words) - 1)):  # behind the type, in older releases behind the tags
        if 5 <= at < len(words) and words[at].isdigit():
            layer = words.pop(at)
            break
    is_first = _is_first(rank) and _is_first(layer) and suffix != b"kv_bytes"
    return b"@".join(words), b"%b@%b@%b" % (rank, layer, suffix) if is_first else None


def canonical(key: bytes) -> bytes:
    """The block's name without what tells its parts apart."""
    return split(key)[0]


def block_id(key: bytes) -> int:
    """A 53-bit id of the block a key belongs to."""
    return _id(canonical(key))


def _id(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 11


class BlockNames:
    """Ids of the blocks of keys, and numbers of their parts, in steps of `PART_STEP`; recent ones are kept.

    ``ids`` and ``parts`` hold the newer generation, for whoever looks up many keys at once.
    """

    PART_STEP: Final = 4
    FOREIGN: Final = 0  # the part of keys in no known format
    REPEATED: Final = -PART_STEP  # of those that repeat the first

    def __init__(self) -> None:
        self.ids: dict[bytes, int] = {}
        self.parts: dict[bytes, int] = {}
        self._older_ids: dict[bytes, int] = {}
        self._older_parts: dict[bytes, int] = {}
        self._numbers: dict[bytes, int] = {b"": self.FOREIGN}

    def of(self, key: bytes) -> tuple[int, int]:
        """The block's id and the part's number of a key that is not in the newer generation."""
        block, part = self._older_ids.get(key), self._older_parts.get(key)
        if block is None or part is None:
            name, part_name = split(key)
            block, part = _id(name), self._number(part_name)
        if len(key) <= MAX_REMEMBERED_KEY_BYTES:
            if len(self.ids) >= REMEMBERED_KEYS:
                self._older_ids, self._older_parts = dict(self.ids), dict(self.parts)
                self.ids.clear()
                self.parts.clear()
            self.ids[key] = block
            self.parts[key] = part
        return block, part

    def tells(self, key: bytes) -> bool:
        """Whether what is done to a key is not a repetition."""
        part = self.parts.get(key)
        return (self.of(key)[1] if part is None else part) >= 0

    def _number(self, part: bytes | None) -> int:
        if part is None:
            return self.REPEATED
        known = self._numbers.get(part)
        if known is not None:
            return known
        if len(self._numbers) == MAX_PARTS or len(part) > MAX_PART_BYTES:
            return self.PART_STEP * MAX_PARTS
        self._numbers[part] = number = self.PART_STEP * len(self._numbers)
        return number
