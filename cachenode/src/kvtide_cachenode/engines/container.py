"""The form in which a block lies in a node: a header of 32 bytes, then the payload.

The header holds what a reader must know before it uses the bytes: their length, a CRC-32 over key, header
and payload (a value under another block's key fails it), and two qualities between 0 and 1, 1 for data that
no lossy step has touched: ``quality`` of the block's own bytes, and ``lineage``, the lowest quality of any
block that its KV was computed on.
"""

import struct
from dataclasses import dataclass
from typing import Final

from isal.isal_zlib import crc32

_HEADER: Final = struct.Struct("<4sHHQffII")
HEADER_BYTES: Final = _HEADER.size
MAGIC: Final = b"KVT1"
RAW: Final = 0  # the only codec of this version: the layout's bytes as they are
_CRC_END: Final = HEADER_BYTES - 4


class ContainerError(Exception):
    """A value is not the block it should be."""


@dataclass(frozen=True, slots=True)
class Qualities:
    """``quality`` of a block's bytes, ``lineage`` of what it was computed on."""

    quality: float = 1.0
    lineage: float = 1.0

    @property
    def lowest(self) -> float:
        """What a block inherits that is computed on this one."""
        return min(self.quality, self.lineage)


def header(key: bytes, payload: memoryview, qualities: Qualities) -> bytes:
    """The header of ``payload`` (raw bytes) under ``key``."""
    plain = _HEADER.pack(MAGIC, RAW, 0, len(payload), qualities.quality, qualities.lineage, 0, 0)
    return plain[:_CRC_END] + struct.pack("<I", _checksum(key, plain, payload))


def read(key: bytes, value: memoryview, payload_bytes: int) -> Qualities:
    """Check a value (header and payload) of a block that has ``payload_bytes``.

    Raises:
        ContainerError: it is not that block, or it is damaged.
    """
    if len(value) != HEADER_BYTES + payload_bytes:
        raise ContainerError(f"{len(value)} bytes instead of {HEADER_BYTES + payload_bytes}")
    head = bytes(value[:HEADER_BYTES])
    magic, codec, _, length, quality, lineage, _, checksum = _HEADER.unpack(head)
    if magic != MAGIC or codec != RAW or length != payload_bytes:
        raise ContainerError("it begins with another header")
    if _checksum(key, head, value[HEADER_BYTES:]) != checksum:
        raise ContainerError("its checksum is wrong")
    if not 0.0 <= lineage <= 1.0 or not 0.0 <= quality <= 1.0:
        raise ContainerError("a quality is not between 0 and 1")
    return Qualities(quality, lineage)


def _checksum(key: bytes, head: bytes, payload: memoryview) -> int:
    return crc32(payload, crc32(head[:_CRC_END], crc32(key)))
