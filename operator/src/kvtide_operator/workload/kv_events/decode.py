"""One published batch of vLLM's KV events (SGLang's are encoded alike), as far as requests show in it.

A payload is MessagePack: ``[time, events, data-parallel rank]``. An event is a map with its class name under
``type``, in older engines an array that begins with it. Fields come and go between versions, so they are
taken by name (in arrays by place) and unknown ones are passed over. Source: vLLM 0.32,
``vllm/distributed/kv_events.py``.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

MAX_EVENTS = 65_536
"""Of one batch, which is what happened in one step of the engine."""
MAX_BLOCKS = 65_536
"""Of one event, as of one request in a trace: a million tokens in blocks of 16."""
MAX_BLOCK_TOKENS = 65_536

_PLACES = {
    "BlockStored": (
        "type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"
    ),
    "BlockRemoved": ("type", "block_hashes", "medium"),
    "AllBlocksCleared": ("type",),
}  # fmt: skip
_OWN_MEMORY = (None, "GPU")
"""What engines call the memory that they compute in. Other media are tiers that blocks are copied to."""


class EventError(ValueError):
    """A payload is no batch of KV events; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that follow each other, by id (below 2^53); ``parent`` precedes the first, None at a prompt's
    beginning.
    """

    parent: int | None
    blocks: list[int]
    block_tokens: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that the engine dropped, by id; None stands for all."""

    blocks: list[int] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step did in the engine's own memory, in order, at a Unix time in seconds."""

    at_s: float
    events: list[Stored | Removed]


def decode(payload: bytes) -> Batch:
    """The batch in a payload.

    Raises:
        EventError: it is malformed.
    """
    try:
        batch = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"no MessagePack: {error}") from None
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):
        raise EventError("no batch of events, which is [time, events, …]")
    at_s, events = batch[:2]
    if not isinstance(at_s, int | float) or not 0 <= at_s < 2**43:
        raise EventError(f"{str(at_s)[:40]!r} is no Unix time in seconds")
    if len(events) > MAX_EVENTS:
        raise EventError(f"{len(events):,} events in one batch are more than {MAX_EVENTS:,}")
    known = (_event(_fields(event)) for event in events)
    return Batch(float(at_s), [event for event in known if event is not None])


def _fields(event: Any) -> dict[Any, Any]:
    if isinstance(event, dict):
        return event
    if isinstance(event, list):
        kind = event[0] if event and isinstance(event[0], str) else ""
        return dict(zip(_PLACES.get(kind, ()), event, strict=False))
    raise EventError(f"an event is a {type(event).__name__}, not a map or an array")


def _event(fields: dict[Any, Any]) -> Stored | Removed | None:
    kind = fields.get("type")
    if kind == "AllBlocksCleared":
        return Removed(None)
    # Layers of a model with several kinds of KV cache store in groups; the first tells of the request.
    if kind not in ("BlockStored", "BlockRemoved") or fields.get("group_idx") not in (None, 0):
        return None
    hashes = fields.get("block_hashes")
    if not isinstance(hashes, list) or len(hashes) > MAX_BLOCKS:
        raise EventError(f"the block_hashes of a {kind} are no array of at most {MAX_BLOCKS:,}")
    if fields.get("medium") not in _OWN_MEMORY or not hashes:
        return None
    blocks = [_id(block) for block in hashes]
    return _stored(fields, blocks) if kind == "BlockStored" else Removed(blocks)


def _stored(fields: dict[Any, Any], blocks: list[int]) -> Stored:
    parent, size = fields.get("parent_block_hash"), fields.get("block_size")
    if not isinstance(size, int) or not 0 < size <= MAX_BLOCK_TOKENS:
        raise EventError(f"{str(size)[:40]!r} tokens in a block are not between 1 and {MAX_BLOCK_TOKENS:,}")
    return Stored(None if parent is None else _id(parent), blocks, size)


def _id(block: Any) -> int:
    """A block's id, as in the connector's traces: vLLM's integers are the last bytes of its hashes."""
    if isinstance(block, bytes):
        return int.from_bytes(block[-8:], "big") >> 11
    if isinstance(block, int):
        return (block & (2**64 - 1)) >> 11
    raise EventError(f"a block's hash is a {type(block).__name__}, not bytes or an integer")
