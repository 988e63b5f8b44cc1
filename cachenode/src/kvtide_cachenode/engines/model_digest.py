"""Which model a block's KV belongs to: a digest of its configuration and of its weights.

Weights are sampled, `SAMPLE_BYTES` of every tensor: training moves all elements of a tensor that it moves at
all, and a terabyte is too much to read at each start. A model that is no folder of safetensors is told by its
name and revision.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

SAMPLE_BYTES: Final = 4096
MAX_HEADER_BYTES: Final = 100_000_000  # as the safetensors format itself
_VOLATILE: Final = frozenset({"_name_or_path", "transformers_version", "architectures_source"})


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class WeightsError(Exception):
    """A weights file cannot be read as safetensors; the sentence names it."""


def digest(facts: Mapping[str, object], folder: Path | None, digits: int) -> str:
    """A name for a model: ``facts`` are plain values, ``folder`` holds its weights.

    Raises:
        WeightsError: a weights file is damaged.
    """
    hasher = blake2b(digest_size=32)
    hasher.update(json.dumps(_plain(facts), sort_keys=True).encode())
    if folder is not None:
        for path in sorted(folder.glob("*.safetensors")):
            hasher.update(path.name.encode())
            _sample(path, hasher)
    return hasher.hexdigest()[:digits]


def _sample(path: Path, hasher: _Hash) -> None:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                raise WeightsError(f"{path} is no safetensors file: its header has {length} bytes")
            head = file.read(length)
            hasher.update(head)
            for start, end in _offsets(json.loads(head)):
                file.seek(8 + length + start)
                hasher.update(file.read(min(SAMPLE_BYTES, end - start)))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from None


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
