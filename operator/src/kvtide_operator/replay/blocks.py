"""Block values: bytes that stand in for a block's KV, the same in every run with the same seed."""

import numpy as np

HEADER_BYTES = 8
OFFSETS = 1 << 20
"""Different places in the random buffer at which a value may begin; its own header tells equal ones apart."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: neighbouring ids land far apart (Knuth, TAOCP vol. 3, section 6.4)."""


def key_of(block_id: int) -> bytes:
    """The key under which replay stores a block."""
    return b"kvt:replay:%d" % block_id


class BlockValues:
    """Values of ``block_bytes`` bytes: the id in 8 bytes, then a slice of one random buffer.

    Nothing is generated or copied per block: a value is a header and a view, and a comparison is one memcmp.

    Args:
        block_bytes: length of every value, at least ``HEADER_BYTES``.
        seed: of the random buffer, which does not compress.
    """

    def __init__(self, block_bytes: int, seed: int) -> None:
        assert block_bytes >= HEADER_BYTES
        self.block_bytes = block_bytes
        self._random = np.random.default_rng(seed).bytes(block_bytes - HEADER_BYTES + OFFSETS)
        self._view = memoryview(self._random)

    def value(self, block_id: int) -> tuple[bytes, memoryview]:
        """The two parts of a block's value."""
        offset = _offset(block_id)
        return _header(block_id), self._view[offset : offset + self.block_bytes - HEADER_BYTES]

    def matches(self, block_id: int, position: int, chunk: memoryview) -> bool:
        """Whether ``chunk`` is what the value of a block holds from byte ``position`` on."""
        head = chunk[: max(0, HEADER_BYTES - position)]
        if head and _header(block_id)[position : position + len(head)] != head:
            return False
        # bytes.startswith compares any buffer with memcmp; == between memoryviews goes byte by byte.
        start = _offset(block_id) + position + len(head) - HEADER_BYTES
        return self._random.startswith(chunk[len(head) :], start)


def _header(block_id: int) -> bytes:
    return block_id.to_bytes(HEADER_BYTES, "big", signed=True)


def _offset(block_id: int) -> int:
    return (block_id * _GOLDEN % (1 << 64)) >> 44
