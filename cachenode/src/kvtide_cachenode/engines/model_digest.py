"""Which weights a block's KV belongs to: a digest of files.

A model's weights are sampled, three times `SAMPLE_BYTES` of every tensor: training moves all elements of a
tensor that it moves at all, and a terabyte is too much to read at each start. What is neither safetensors nor
a zip archive of PyTorch is read whole.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, Protocol

SAMPLE_BYTES: Final = 4096
READ_BYTES: Final = 1 << 20
MAX_HEADER_BYTES: Final = 100_000_000  # as the safetensors format itself
WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth")
COMMIT_DIGITS: Final = 40
_VOLATILE: Final = frozenset({"_name_or_path", "transformers_version", "architectures_source"})


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Add ``data``."""


class WeightsError(Exception):
    """Weights cannot be read; the sentence names the file."""


def weight_files(folder: Path) -> list[Path]:
    """The files in ``folder`` that hold weights, also links that lead nowhere.

    Raises:
        WeightsError: it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read: {error.strerror}") from None


def model_weights(name: str) -> Path | None:
    """The folder of weights that ``name`` is, None where it is something else."""
    folder = Path(name)
    return folder if name and folder.is_dir() and weight_files(folder) else None


def is_commit(revision: str | None) -> bool:
    """Whether ``revision`` names one state for ever: a branch or a tag may move."""
    return (
        revision is not None and len(revision) == COMMIT_DIGITS and set(revision) <= set("0123456789abcdef")
    )


def digest(facts: Mapping[str, object], folder: Path | None, digits: int) -> str:
    """A name for a model: ``facts`` are plain values, ``folder`` holds its weights.

    Raises:
        WeightsError: a weights file is damaged, or cannot be read.
    """
    hasher = blake2b(digest_size=32)
    hasher.update(json.dumps(_plain(facts), sort_keys=True).encode())
    for path in weight_files(folder) if folder is not None else ():
        hasher.update(path.name.encode())
        try:
            with path.open("rb") as file:
                _sample(path, file, hasher)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{path} cannot be read as weights: {error}") from None
    return hasher.hexdigest()[:digits]


def read_whole(file: BinaryIO, hasher: Hash) -> None:
    """Add all of ``file``."""
    while piece := file.read(READ_BYTES):
        hasher.update(piece)


def _sample(path: Path, file: BinaryIO, hasher: Hash) -> None:
    if path.suffix == ".safetensors":
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= MAX_HEADER_BYTES:
            raise WeightsError(f"{path} is no safetensors file: its header has {length} bytes")
        head = file.read(length)
        hasher.update(head)
        for start, end in _offsets(json.loads(head)):
            _sample_range(file, 8 + length + start, 8 + length + end, hasher)
    elif zipfile.is_zipfile(file):
        for record in zipfile.ZipFile(file).infolist():
            hasher.update(f"{record.filename} {record.file_size} {record.CRC}".encode())
            # The record's own header, of some 100 bytes, is among what is sampled.
            _sample_range(file, record.header_offset, record.header_offset + record.compress_size, hasher)
    else:
        file.seek(0)
        read_whole(file, hasher)


def _sample_range(file: BinaryIO, start: int, end: int, hasher: Hash) -> None:
    """Its beginning, middle and end, or all of it: vocabularies grow at the end of a tensor."""
    if end - start <= 3 * SAMPLE_BYTES:
        parts = [(start, end - start)]
    else:
        places = (start, (start + end - SAMPLE_BYTES) // 2, end - SAMPLE_BYTES)
        parts = [(place, SAMPLE_BYTES) for place in places]
    for place, length in parts:
        file.seek(place)
        hasher.update(file.read(length))


def _offsets(header: object) -> Iterator[tuple[int, int]]:
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        match entry:
            case {"data_offsets": [int(start), int(end)]}:
                yield start, end
            case _:
                raise ValueError(f"tensor {name!r} has no data_offsets")


def _plain(value: object) -> object:
    """``value`` with everything that JSON does not know as text, less what differs between equal models."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
