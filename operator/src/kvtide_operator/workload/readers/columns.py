"""From decoded rows to the columns of a trace, with the checks every format shares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvtide_cachenode.contract.trace_line import TraceLine
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import ObservedAt, Trace, TraceError, renumber

MAX_TOKENS = 2**31 - 1
"""The most tokens a request's columns can hold; a line with more is refused."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
Timestamp = Annotated[float, msgspec.Meta(ge=0, le=2**53)]
BlockId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RequestRow(msgspec.Struct, gc=False):
    """What every format with prefix blocks says about a request."""

    timestamp: Timestamp
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[BlockId]


@dataclass(frozen=True, slots=True)
class Columns:
    """Requests as columns, in the order of ``row``, the position of each in the text."""

    text: TraceText
    row: NDArray[np.int64]
    timestamp: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    block_count: NDArray[np.int64]
    ids: NDArray[np.int64]

    @classmethod
    def gather(
        cls, text: TraceText, chunks: Iterable[Sequence[RequestRow] | Sequence[TraceLine]]
    ) -> "Columns":
        """Columns of these rows.

        Raises:
            TraceError: there are none.
        """
        parts = [
            (
                np.array([row.timestamp for row in rows], dtype=np.float64),
                np.array([row.input_length for row in rows], dtype=np.int32),
                np.array([row.output_length for row in rows], dtype=np.int32),
                np.array([len(row.hash_ids) for row in rows], dtype=np.int64),
                np.fromiter(chain.from_iterable(row.hash_ids for row in rows), dtype=np.int64),
            )
            for rows in chunks
        ]
        if not sum(len(part[0]) for part in parts):
            raise TraceError(f"{text.name}: the trace is empty; give one with at least one request")
        timestamp, input_tokens, output_tokens, block_count, ids = map(
            np.concatenate, zip(*parts, strict=True)
        )
        return cls(text, np.arange(len(timestamp)), timestamp, input_tokens, output_tokens, block_count, ids)

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """All of these, one behind the other, as rows of the first one's text."""
        timestamp, input_tokens, output_tokens, block_count, ids = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("timestamp", "input_tokens", "output_tokens", "block_count", "ids")
        )
        row = np.arange(len(timestamp))
        return cls(parts[0].text, row, timestamp, input_tokens, output_tokens, block_count, ids)

    def of(self, kept: NDArray[np.int64]) -> "Columns":
        """These requests, in this order."""
        count = self.block_count[kept]
        begins = np.cumsum(self.block_count) - self.block_count
        shift = np.repeat(begins[kept] - (np.cumsum(count) - count), count)
        return Columns(
            self.text,
            self.row[kept],
            self.timestamp[kept],
            self.input_tokens[kept],
            self.output_tokens[kept],
            count,
            self.ids[shift + np.arange(len(shift))],
        )

    @property
    def nbytes(self) -> int:
        """Memory that the columns take."""
        columns = (
            self.row,
            self.timestamp,
            self.input_tokens,
            self.output_tokens,
            self.block_count,
            self.ids,
        )
        return sum(column.nbytes for column in columns)

    def line_of(self, request: int) -> int:
        """The line that holds request ``request``."""
        return self.text.line_of(int(self.row[request]))

    def require_rising(self) -> None:
        """Refuse times that go backwards: in a trace of one source they mean a damaged file.

        Raises:
            TraceError: the first line earlier than the one before it.
        """
        falls = np.flatnonzero(np.diff(self.timestamp) < 0)
        if len(falls):
            at = int(falls[0]) + 1
            raise self.text.error(
                self.line_of(at),
                f"time goes back from {self.timestamp[at - 1]:.15g} to {self.timestamp[at]:.15g};"
                " sort the trace by time",
            )

    def block_tokens(self, given: int | None, usual: int) -> int:
        """Tokens in a block: the one size for which every request has ``ceil(input / size)`` blocks.

        Request i with n blocks of L tokens allows the sizes from ceil(L / n) to (L - 1) // (n - 1). Of the
        sizes all requests allow it is ``given`` if that is not None, else the only one, else ``usual``,
        else the only power of two.

        Raises:
            TraceError: no size fits, or the rows leave several.
        """
        low, high = self._allowed_sizes()
        if given is not None:
            misfits = np.flatnonzero((low > given) | (high < given))
            if len(misfits):
                at = int(misfits[0])
                raise self.text.error(self.line_of(at), f"{self._says(at)}, not blocks of {given} tokens")
            return given
        least, most = int(low.max()), int(high.min())
        if least > most:
            small, large = int(high.argmin()), int(low.argmax())
            raise self.text.error(
                self.line_of(max(small, large)),
                f"{self._says(max(small, large))}, but line {self.line_of(min(small, large))} has"
                f" {self._says(min(small, large))}: no block size fits both; the input length must count"
                " all the prompt's tokens and hash_ids all its blocks, a partial last one included",
            )
        powers = [1 << bits for bits in range(31) if least <= 1 << bits <= most]
        if least == most:
            return least
        if usual in powers:
            return usual
        if len(powers) == 1:
            return powers[0]
        raise TraceError(
            f"{self.text.name}: blocks of {least} to {most} tokens fit every request;"
            " say which size it is with block_tokens"
        )

    def _allowed_sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """int64[requests] each: the smallest and the largest block size every request allows."""
        tokens, count = self.input_tokens.astype(np.int64), self.block_count
        odd = np.flatnonzero((tokens == 0) != (count == 0))
        if len(odd):
            at = int(odd[0])
            raise self.text.error(self.line_of(at), f"{self._says(at)}, which no block size explains")
        low = -(-tokens // np.maximum(count, 1))
        high = np.where(count > 1, (tokens - 1) // np.maximum(count - 1, 1), np.iinfo(np.int32).max)
        return np.maximum(low, 1), high

    def _says(self, request: int) -> str:
        return f"{self.block_count[request]:,} blocks for {self.input_tokens[request]:,} tokens"

    def trace(
        self,
        block_tokens: int,
        *,
        seconds: float,
        weight: NDArray[np.float64] | None = None,
        observed_at: ObservedAt = "engine",
        hit_blocks: NDArray[np.int32] | None = None,
        local_hit_blocks: NDArray[np.int32] | None = None,
        started_at_s: float = 0.0,
        notes: tuple[str, ...] = (),
    ) -> Trace:
        """The trace these columns are; ``seconds`` is the unit of the timestamps."""
        blocks, block_ids = renumber(self.ids)
        return Trace(
            arrival_s=(self.timestamp - self.timestamp[0]) * seconds,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            block_start=np.concatenate(([0], np.cumsum(self.block_count))),
            blocks=blocks,
            block_ids=block_ids,
            weight=np.ones(len(self.timestamp)) if weight is None else weight,
            block_tokens=block_tokens,
            observed_at=observed_at,
            hit_blocks=hit_blocks,
            local_hit_blocks=local_hit_blocks,
            started_at_s=started_at_s,
            notes=notes,
        )
