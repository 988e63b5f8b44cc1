"""A trace: what was asked of a cache, as columnar arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ObservedAt = Literal["engine", "node"]


class TraceError(ValueError):
    """A trace that cannot be used; the message names the file, the line and the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival, and the prefix blocks each of them asked for.

    Request ``i`` asks for ``blocks[block_start[i]:block_start[i + 1]]``, root first. Blocks are numbered
    densely in order of first appearance; ``block_ids[b]`` is the id block ``b`` had in the source. Equal
    blocks mean equal whole prefixes.

    Attributes:
        arrival_s: float64[requests], seconds since the first arrival, never decreasing.
        input_tokens: int32[requests].
        output_tokens: int32[requests].
        block_start: int64[requests + 1], offsets into ``blocks``.
        blocks: int32[accesses], dense block numbers.
        block_ids: int64[unique blocks], ids of the source.
        weight: float64[requests], how many real requests each stands for (1 unless sampled).
        block_tokens: tokens in a full block. The last block of a request may be partial.
        observed_at: ``engine`` where every access of the engine is in the trace, ``node`` where a GPU
            cache has already filtered it.
        hit_blocks: int32[requests], how many blocks the engines found cached, or None where not all say.
        local_hit_blocks: int32[requests], how many of these an engine's own cache had, or None likewise.
        started_at_s: when the first arrival was, seconds since the epoch; 0 where the source does not say.
        notes: sentences a user should see about what the reader left out or found missing.
        unreliable: the one of them that says why lines were not believed; empty where all were.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    block_start: NDArray[np.int64]
    blocks: NDArray[np.int32]
    block_ids: NDArray[np.int64]
    weight: NDArray[np.float64]
    block_tokens: int
    observed_at: ObservedAt = "engine"
    hit_blocks: NDArray[np.int32] | None = None
    local_hit_blocks: NDArray[np.int32] | None = None
    started_at_s: float = 0.0
    notes: tuple[str, ...] = ()
    unreliable: str = ""

    def __post_init__(self) -> None:
        assert len(self.block_start) == self.requests + 1
        assert self.block_start[-1] == len(self.blocks)
        assert len(self.input_tokens) == len(self.output_tokens) == len(self.weight) == self.requests
        assert self.block_tokens > 0

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return len(self.arrival_s)

    @property
    def unique_blocks(self) -> int:
        """How many different blocks were asked for."""
        return len(self.block_ids)

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.arrival_s[-1]) if self.requests else 0.0

    def blocks_of(self, request: int) -> NDArray[np.int32]:
        """The blocks of one request, root first."""
        return self.blocks[self.block_start[request] : self.block_start[request + 1]]

    def between(self, first: int, last: int) -> "Trace":
        """The requests ``first`` up to but not including ``last``, as a trace of its own."""
        start = self.block_start[first : last + 1]
        dense, ids = renumber(self.block_ids[self.blocks[start[0] : start[-1]]])
        arrival = self.arrival_s[first:last]
        return Trace(
            arrival_s=arrival - arrival[0] if len(arrival) else arrival,
            input_tokens=self.input_tokens[first:last],
            output_tokens=self.output_tokens[first:last],
            block_start=start - start[0],
            blocks=dense,
            block_ids=ids,
            weight=self.weight[first:last],
            block_tokens=self.block_tokens,
            observed_at=self.observed_at,
            hit_blocks=None if self.hit_blocks is None else self.hit_blocks[first:last],
            local_hit_blocks=None if self.local_hit_blocks is None else self.local_hit_blocks[first:last],
            started_at_s=self.started_at_s
            + (float(arrival[0]) if len(arrival) and self.started_at_s else 0.0),
            notes=self.notes,
            unreliable=self.unreliable,
        )


def renumber(ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Dense numbers for ``ids`` in order of first appearance, and the id behind each number."""
    if len(ids) and ids.min() >= 0 and ids.max() < 4 * len(ids):
        values, compact = None, ids  # ids this small index a table, which is far cheaper than a sort
    else:
        values, compact = np.unique(ids, return_inverse=True)
    size = int(compact.max(initial=-1)) + 1
    first = np.empty(size, dtype=np.int64)
    # With repeated indices numpy keeps the last assignment: written backwards, that is the first access.
    first[compact[::-1]] = np.arange(len(compact) - 1, -1, -1)
    firsts = compact[first[compact] == np.arange(len(compact))]
    rank = np.empty(size, dtype=np.int32)
    rank[firsts] = np.arange(len(firsts), dtype=np.int32)
    return rank[compact], firsts.astype(np.int64) if values is None else values[firsts]
