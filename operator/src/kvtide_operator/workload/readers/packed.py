"""Compressed files, known by their first bytes and read no further than a limit."""

import gzip
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, cast

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 1 << 20


class PackedError(ValueError):
    """A compressed file that cannot be read to its end."""


def unpacked(data: bytes, most_bytes: int) -> bytes:
    """What is in a gzip or Zstandard file, at most ``most_bytes`` and one; other data as it is.

    Raises:
        PackedError: it is cut off or damaged.
    """
    opened = next((open_ for magic, open_ in _KNOWN.items() if data.startswith(magic)), None)
    if opened is None:
        return data
    parts, length = [], 0
    try:
        with opened(data) as stream:
            while length <= most_bytes and (part := stream.read(CHUNK_BYTES)):
                parts.append(part)
                length += len(part)
    except (EOFError, OSError, ValueError, zlib.error):
        raise PackedError("the compressed file is cut off or damaged; fetch it again") from None
    return b"".join(parts)


def _gzip(data: bytes) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=BytesIO(data)))


def _zstd(data: bytes) -> BinaryIO:
    import pyarrow as pa  # it takes a while, and few traces are packed so

    return cast(BinaryIO, pa.CompressedInputStream(pa.BufferReader(data), "zstd"))


_KNOWN: dict[bytes, Callable[[bytes], BinaryIO]] = {GZIP: _gzip, ZSTD: _zstd}
