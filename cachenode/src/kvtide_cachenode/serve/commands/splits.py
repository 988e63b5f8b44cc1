"""How a command with keys is split: what is sent for each key, and how the replies become one."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kvtide_cachenode.access_trace.inference import Access


class Merge(Enum):
    """How the replies for single keys become one."""

    ONE = auto()  # the command has one key
    ARRAY = auto()
    ITEMS = auto()  # of an array whose head is queued
    SUM = auto()
    OK = auto()


@dataclass(frozen=True, slots=True)
class Split:
    """A command with keys: what is sent for each, and what is said of a key whose owner does not answer.

    ``missing`` is None where silence must not pass for success: then the client gets an error.
    """

    each: bytes
    merge: Merge
    missing: bytes | None = None
    access: Access | None = None


# One row for every command of the table that has keys.
SPLITS = {
    "get": Split(b"GET", Merge.ONE, b"$-1", Access.LOAD),
    "mget": Split(b"GET", Merge.ARRAY, b"$-1", Access.LOAD),
    "mget part": Split(b"GET", Merge.ITEMS, b"$-1", Access.LOAD),
    "exists": Split(b"EXISTS", Merge.SUM, b":0", Access.LOOK_UP),
    "strlen": Split(b"STRLEN", Merge.ONE, b":0"),
    "type": Split(b"TYPE", Merge.ONE, b"+none"),
    "ttl": Split(b"TTL", Merge.ONE, b":-2"),
    "pttl": Split(b"PTTL", Merge.ONE, b":-2"),
    "set": Split(b"SET", Merge.ONE, None, Access.STORE),
    "getset": Split(b"GETSET", Merge.ONE, None, Access.STORE),
    "persist": Split(b"PERSIST", Merge.ONE, b":0"),
    "memory": Split(b"MEMORY", Merge.ONE, b"$-1"),
    "setnx": Split(b"SETNX", Merge.ONE, None, Access.STORE),
    "mset": Split(b"SET", Merge.OK, None, Access.STORE),
    "touch": Split(b"TOUCH", Merge.SUM, b":0"),
    "getdel": Split(b"GETDEL", Merge.ONE),
    "del": Split(b"DEL", Merge.SUM),
    "unlink": Split(b"UNLINK", Merge.SUM),
}
SPLITS |= {f"{name} part": SPLITS[name] for name in ("exists", "touch", "del", "unlink", "mset")}
VALUES: Final = (Merge.ARRAY, Merge.ITEMS)
