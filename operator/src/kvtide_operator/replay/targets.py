"""Targets: the servers a trace is played against, and which of them owns a key."""

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

SLOTS = 16384
"""Redis Cluster's number of hash slots (cluster specification, "Key distribution model")."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server; ``str()`` of it never shows the password."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_targets(text: str) -> list[Target]:
    """Targets from ``redis://[[user]:password@]HOST:PORT[,…]``, in the order given.

    The scheme may be repeated or left out after the first comma. A password holds for the targets after it
    until another is given, so that it is typed once for a group of servers.

    Raises:
        ValueError: the part that is not an address, and what an address looks like.
    """
    targets: list[Target] = []
    username: str | None = None
    password: str | None = None
    for part in text.split(","):
        address = part.strip()
        try:
            url = urlsplit(address if "://" in address else f"redis://{address}")
            port = url.port
        except ValueError:
            port = None
        if not port or url.scheme != "redis" or not url.hostname or url.path.strip("/") or url.query:
            shown = address.rpartition("@")[2]
            raise ValueError(
                f"{shown!r} is not the address of a target; write for example redis://127.0.0.1:6379"
            )
        if url.password:
            username, password = unquote(url.username or "") or None, unquote(url.password)
        targets.append(Target(url.hostname, port, username, password))
    if len({(target.host, target.port) for target in targets}) < len(targets):
        raise ValueError(f"{text.rpartition('@')[2]!r} names a target twice; name every server once")
    return targets


def slot_of(key: bytes) -> int:
    """The hash slot of a key without a hash tag: CRC16 (XMODEM) modulo 16384, as Redis Cluster has it."""
    return crc_hqx(key, 0) % SLOTS


def owner_of(key: bytes, targets: Sequence[object]) -> int:
    """Index of the target that owns ``key`` when every target has one of as many equal slot ranges."""
    return slot_of(key) * len(targets) // SLOTS
