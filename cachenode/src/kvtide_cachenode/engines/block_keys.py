"""Names of blocks: keys in the nodes and ids in the access trace.

``kvt:<model>:<layout>:<rank>:<root>:<depth>:<hash>``: who reads a key learns the TTL group (``root``) and the
depth from it. ``model`` and ``layout`` keep apart what must never be exchanged; ``rank`` is the part of a
model that is spread over several workers. Hashes are the engine's own block hashes, each over the whole
prefix, with LoRA adapter, multimodal inputs and cache salt in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from kvtide_cachenode.placement import root_of

MODEL_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class BlockName:
    """A block without its rank: ``head`` is ``kvt:<model>:<layout>``, ``tail`` ``<root>:<depth>:<hash>``."""

    head: bytes
    tail: bytes

    def key(self, rank: bytes) -> bytes:
        """The block's key for one worker."""
        return b"%b:%b:%b" % (self.head, rank, self.tail)


def names(head: bytes, hashes: Sequence[bytes], root_depth: int, first: int, last: int) -> list[BlockName]:
    """Names of blocks ``first`` to ``last`` (excluded) of the chain ``hashes``.

    A block's root is the chain's block at ``root_depth``, or itself above that, by its id in the trace.
    """
    roots = [root_of(_id(block)).encode() for block in hashes[: min(last, root_depth + 1)]]
    return [
        BlockName(head, b"%b:%d:%b" % (roots[min(depth, root_depth)], depth, hashes[depth].hex().encode()))
        for depth in range(first, last)
    ]


def rank_name(rank: int, tensor_parallel: int, pipeline_parallel: int) -> bytes:
    """Which worker of how many: ``<rank>-<tensor parallel size>x<pipeline parallel size>``."""
    return b"%d-%dx%d" % (rank, tensor_parallel, pipeline_parallel)


def all_ranks(tensor_parallel: int, pipeline_parallel: int) -> list[bytes]:
    """The names of all workers of a model."""
    count = tensor_parallel * pipeline_parallel
    return [rank_name(rank, tensor_parallel, pipeline_parallel) for rank in range(count)]


def trace_ids(hashes: Sequence[bytes], tail_tokens: Sequence[int]) -> list[int]:
    """Ids below 2^53 of a prompt's blocks: the full ones, and one for the tokens that fill no block."""
    ids = [_id(block) for block in hashes]
    if tail_tokens:
        digest = blake2b(hashes[-1] if hashes else b"", digest_size=8)
        digest.update(b"".join(token.to_bytes(8, "little") for token in tail_tokens))
        ids.append(_id(digest.digest()))
    return ids


def _id(block: bytes) -> int:
    # Its last eight bytes are what vLLM's KV events name it by.
    return int.from_bytes(block[-8:], "big") >> 11
