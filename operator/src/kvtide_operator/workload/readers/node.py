"""What kvtide's nodes export: Mooncake's fields, and on every line where the request was seen.

The exports of several nodes may be concatenated in any order, also overlapping ones: lines are told apart by
``boot_id`` and ``seq`` and put in order of time. Parts of one request that several nodes inferred are put
together. Timestamps are Unix milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvtide_cachenode.contract.trace_line import DOUBTS, TraceLine
from kvtide_operator.workload.readers.columns import Columns
from kvtide_operator.workload.readers.parts import joined
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace, TraceError

USUAL_BLOCK_TOKENS = 512
NOT_SAID = -1
_LINE_BYTES = 8 + 8 + 1 + 8 + 4 + 4 + 8 + 1 + 8 + 16 + 1
_SURE: Final = 0
_FIELDS: Final = (
    "boot",
    "seq",
    "inferred",
    "weight",
    "hit_blocks",
    "local_hit_blocks",
    "stored_at_ms",
    "doubt",
    "client",
    "asked_us",
    "missed",
)


@dataclass(frozen=True, slots=True, eq=False)
class NodeLines:
    """Lines as nodes told them, decoded: a column for each field.

    Attributes:
        columns: what every format has.
        boot: int64[lines], a number for each ``boot_id``.
        seq: int64[lines].
        inferred: bool[lines].
        weight: float64[lines].
        hit_blocks: int32[lines], `NOT_SAID` where the line does not say.
        local_hit_blocks: int32[lines], likewise.
        stored_at_ms: int64[lines], likewise.
        doubt: int8[lines], the number of why the line is unreliable in `DOUBTS`, from 1; 0 where it is not.
        client: int64[lines], `NOT_SAID` where the line does not say.
        asked_us: int64[lines, 2], likewise.
        missed: bool[lines], also where the line does not say.
    """

    columns: Columns
    boot: NDArray[np.int64]
    seq: NDArray[np.int64]
    inferred: NDArray[np.bool_]
    weight: NDArray[np.float64]
    hit_blocks: NDArray[np.int32]
    local_hit_blocks: NDArray[np.int32]
    stored_at_ms: NDArray[np.int64]
    doubt: NDArray[np.int8]
    client: NDArray[np.int64]
    asked_us: NDArray[np.int64]
    missed: NDArray[np.bool_]

    @classmethod
    def decode(cls, text: TraceText) -> "NodeLines":
        """The lines of a text.

        Raises:
            TraceError: a line is malformed, or there is none.
        """
        parts = [cls._of(text, rows) for rows in text.rows(TraceLine) if rows]
        if not parts:
            raise TraceError(f"{text.name}: the trace is empty; give one with at least one request")
        return cls.joined(parts)

    @classmethod
    def _of(cls, text: TraceText, rows: Sequence[TraceLine]) -> "NodeLines":
        said = [(row.hit_blocks, row.local_hit_blocks) for row in rows]
        hits = np.array([[NOT_SAID if n is None else n for n in pair] for pair in said], dtype=np.int32)
        number = {boot_id: _number(boot_id) for boot_id in {row.boot_id for row in rows}}
        return cls(
            columns=Columns.gather(text, [rows]),
            boot=np.array([number[row.boot_id] for row in rows], dtype=np.int64),
            seq=np.array([row.seq for row in rows], dtype=np.int64),
            inferred=np.array([row.observed_at == "node" for row in rows], dtype=np.bool_),
            weight=np.array([row.weight for row in rows], dtype=np.float64),
            hit_blocks=hits[:, 0],
            local_hit_blocks=hits[:, 1],
            stored_at_ms=np.array(
                [NOT_SAID if row.stored_at is None else row.stored_at for row in rows], dtype=np.int64
            ),
            doubt=np.array(
                [DOUBTS.index(row.unreliable) + 1 if row.unreliable else _SURE for row in rows], dtype=np.int8
            ),
            client=np.array([NOT_SAID if row.client is None else row.client for row in rows], dtype=np.int64),
            asked_us=np.array([row.asked_us or (NOT_SAID, NOT_SAID) for row in rows], dtype=np.int64),
            missed=np.array([row.missed is not False for row in rows], dtype=np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence["NodeLines"]) -> "NodeLines":
        """All of these, one behind the other."""
        return cls(
            columns=Columns.joined([part.columns for part in parts]),
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS},
        )

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.columns.nbytes + len(self.seq) * _LINE_BYTES

    def trace(self, block_tokens: int | None, *, trusted: bool = False) -> Trace:
        """The engines' lines if there are any, else the ones that nodes inferred, in order of time.

        Each counts once. Unless ``block_tokens`` is trusted, the lines must fit it, or say how many it is.

        Raises:
            TraceError: no block size fits, or no line is reliable.
        """
        kept, notes = self._select()
        if self.inferred[kept[0]]:
            requests, parts, doubted = self._requests(kept)
            notes = (*notes, *filter(None, (parts, doubted)))
            trace = requests._trace(np.arange(len(requests.seq)), block_tokens, trusted, notes)
            return replace(trace, unreliable=doubted)
        return self._trace(kept, block_tokens, trusted, notes)

    def _trace(
        self, kept: NDArray[np.int64], block_tokens: int | None, trusted: bool, notes: tuple[str, ...]
    ) -> Trace:
        columns = self.columns.of(kept)
        return columns.trace(
            block_tokens
            if trusted and block_tokens is not None
            else columns.block_tokens(block_tokens, USUAL_BLOCK_TOKENS),
            seconds=1e-3,
            weight=self.weight[kept],
            observed_at="node" if self.inferred[kept[0]] else "engine",
            hit_blocks=_if_all_say(self.hit_blocks[kept]),
            local_hit_blocks=_if_all_say(self.local_hit_blocks[kept]),
            started_at_s=float(columns.timestamp[0]) * 1e-3,
            notes=notes,
        )

    def _requests(self, kept: NDArray[np.int64]) -> tuple["NodeLines", str, str]:
        """Inferred lines as requests: parts that several nodes saw put together, those in doubt left out.

        With sentences on both, empty where there is nothing to say.
        """
        whole = joined(self._lines(kept))
        sure = [line for line in whole if line.unreliable in (None, "stores")]
        parts = doubted = ""
        if len(whole) < len(kept):
            parts = f"{len(kept) - len(whole):,} lines were parts of others, which several nodes had seen"
        if len(sure) < len(whole):
            doubted = (
                f"{1 - len(sure) / len(whole):.0%} of the requests that nodes inferred are left out as "
                "unreliable: they may be ranks of one engine whose keys do not name them, or pieces of one "
                "look-up that came over several connections at once"
            )
        if not sure:
            raise TraceError(f"{self.columns.text.name}: {doubted}")
        return self._of(self.columns.text, sure), parts, doubted

    def _lines(self, kept: NDArray[np.int64]) -> list[TraceLine]:
        """Inferred lines as they were told, but for the names of their nodes, which are numbers here."""
        columns = self.columns.of(kept)
        begins = (np.cumsum(columns.block_count) - columns.block_count).tolist()
        return [
            TraceLine(
                timestamp=int(columns.timestamp[at]),
                input_length=int(columns.input_tokens[at]),
                output_length=int(columns.output_tokens[at]),
                hash_ids=columns.ids[begins[at] : begins[at] + int(columns.block_count[at])].tolist(),
                observed_at="node",
                weight=float(self.weight[line]),
                seq=int(self.seq[line]),
                boot_id=str(self.boot[line]),
                hit_blocks=_said(self.hit_blocks[line]),
                local_hit_blocks=_said(self.local_hit_blocks[line]),
                stored_at=_said(self.stored_at_ms[line]),
                unreliable=DOUBTS[self.doubt[line] - 1] if self.doubt[line] else None,
                client=_said(self.client[line]),
                asked_us=_pair(self.asked_us[line]),
                missed=bool(self.missed[line]),
            )
            for at, line in enumerate(kept)
        ]

    def _select(self) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """The positions of the lines that count, in order of time, and notes on the others."""
        order = np.lexsort((self.seq, self.boot))  # stable: of equal lines the last one told comes last
        boot, seq = self.boot[order], self.seq[order]
        new_boot = np.append(True, boot[1:] != boot[:-1])
        first_of_line = new_boot | np.append(True, seq[1:] != seq[:-1])
        once = order[np.append(first_of_line[1:], True)]
        once = once[np.argsort(order[first_of_line], kind="stable")]
        engine = ~self.inferred[once]
        kept = once[engine] if engine.any() else once
        ends = np.append(new_boot[1:], True)
        told = np.add.reduceat(first_of_line.astype(np.int64), np.flatnonzero(new_boot))
        counts = {
            "lines occur more than once and count once": len(order) - len(once),
            "lines are missing between the first and the last of a node": int(
                (seq[ends] - seq[new_boot] + 1 - told).sum()
            ),
            "lines that nodes inferred are left out, as engines report themselves": len(once) - len(kept),
        }
        notes = tuple(f"{count:,} {what}" for what, count in counts.items() if count)
        return kept[np.argsort(self.columns.timestamp[kept], kind="stable")], notes


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text: the engines' lines if there are any, else the ones that nodes inferred.

    Its notes say what was dropped and what is missing.

    Raises:
        TraceError: a line is malformed, or no block size fits.
    """
    return NodeLines.decode(text).trace(block_tokens)


def read_node_lines(lines: bytes, *, block_tokens: int) -> Trace | None:
    """The trace in lines that nodes have just answered, or None if there are none.

    A loop must not stop over one engine's odd line: that blocks and tokens agree is taken on trust.

    Args:
        lines: JSON lines.
        block_tokens: tokens in a block, as the cache's specification says.

    Raises:
        TraceError: a line is malformed.
    """
    if not lines.strip():
        return None
    return NodeLines.decode(TraceText("the nodes' trace", lines)).trace(block_tokens, trusted=True)


def _number(boot_id: str) -> int:
    return int.from_bytes(blake2b(boot_id.encode(), digest_size=8).digest()) >> 1


def _said(number: np.integer[Any]) -> int | None:
    return None if number == NOT_SAID else int(number)


def _pair(numbers: NDArray[np.int64]) -> tuple[int, int] | None:
    return None if numbers[0] == NOT_SAID else (int(numbers[0]), int(numbers[1]))


def _if_all_say(counts: NDArray[np.int32]) -> NDArray[np.int32] | None:
    return None if (counts == NOT_SAID).any() else counts
