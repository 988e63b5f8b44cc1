"""Key to slot, as the Redis Cluster specification defines it (section "Key distribution model")."""

from binascii import crc_hqx
from collections.abc import Iterable, Iterator
from typing import Final

SLOTS: Final = 16384


def hash_tag(key: bytes) -> bytes:
    """The part of ``key`` that is hashed: what the first `{…}` holds, the whole key where that is nothing."""
    start = key.find(b"{")
    if start < 0:
        return key
    end = key.find(b"}", start + 1)
    return key[start + 1 : end] if end > start + 1 else key


def key_slot(key: bytes) -> int:
    """The slot of ``key``, 0 to 16383: CRC16/XMODEM modulo 16384."""
    return crc_hqx(hash_tag(key) if b"{" in key else key, 0) % SLOTS


def keys_in_slot(keys: Iterable[bytes], slot: int) -> Iterator[bytes]:
    """Those of ``keys`` whose slot is ``slot``, in their order."""
    return (key for key in keys if key_slot(key) == slot)
