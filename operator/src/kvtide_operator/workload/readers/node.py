"""What kvtide's nodes export: Mooncake's fields, and on every line where the request was seen.

The exports of several nodes may be concatenated in any order, also overlapping ones: lines are told apart by
``boot_id`` and ``seq``, and put in order of time. Parts of one request that several nodes inferred are put
together. Timestamps are Unix milliseconds.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kvtide_cachenode.trace_line import TraceLine
from kvtide_operator.workload.readers.columns import Columns
from kvtide_operator.workload.readers.parts import joined
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace

USUAL_BLOCK_TOKENS = 512


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text: the engines' lines if there are any, else the ones that nodes inferred.

    Its notes say what was dropped and what is missing.

    Raises:
        TraceError: a line is malformed, or no block size fits.
    """
    rows, kept, notes = _select(text)
    columns = _columns(text, rows, kept)
    return _trace(rows, columns, columns.block_tokens(block_tokens, USUAL_BLOCK_TOKENS), notes)


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
    text = TraceText("the nodes' trace", lines)
    rows, kept, notes = _select(text)
    return _trace(rows, _columns(text, rows, kept), block_tokens, notes)


def _select(text: TraceText) -> tuple[list[TraceLine], NDArray[np.int64], tuple[str, ...]]:
    """Rows, the positions of those that count in order of time, and notes on the others."""
    rows = list(chain.from_iterable(text.rows(TraceLine)))
    once = {(row.boot_id, row.seq): at for at, row in enumerate(rows)}
    engine = [at for at in once.values() if rows[at].observed_at == "engine"]
    notes = []
    if repeated := len(rows) - len(once):
        notes.append(f"{repeated:,} lines occur more than once and count once")
    if missing := _missing(rows):
        notes.append(f"{missing:,} lines are missing between the first and the last of a node")
    if engine and (inferred := len(once) - len(engine)):
        notes.append(f"{inferred:,} lines that nodes inferred are left out, as engines report themselves")
    if engine:
        kept = sorted(engine, key=lambda at: rows[at].timestamp)
        return rows, np.array(kept, dtype=np.int64), tuple(notes)
    parts = [rows[at] for at in once.values()]
    whole = joined(parts)
    if len(whole) < len(parts):
        notes.append(f"{len(parts) - len(whole):,} lines were parts of others, which several nodes had seen")
    sure = [line for line in whole if line.unreliable != "ranks"]
    if doubted := len(whole) - len(sure):
        notes.append(
            f"{doubted:,} lines are left out as unreliable: they ask for what another asked for at the same"
            " time, and may be ranks of one engine whose keys do not name them"
        )
    return sure, np.arange(len(sure)), tuple(notes)


def _columns(text: TraceText, rows: Sequence[TraceLine], kept: NDArray[np.int64]) -> Columns:
    return replace(Columns.gather(text, [[rows[at] for at in kept]]), row=kept)


def _trace(rows: Sequence[TraceLine], columns: Columns, block_tokens: int, notes: tuple[str, ...]) -> Trace:
    kept = [rows[at] for at in columns.row]
    return columns.trace(
        block_tokens,
        seconds=1e-3,
        weight=np.array([row.weight for row in kept], dtype=np.float64),
        observed_at=kept[0].observed_at,
        hit_blocks=_if_all_say([row.hit_blocks for row in kept]),
        local_hit_blocks=_if_all_say([row.local_hit_blocks for row in kept]),
        started_at_s=kept[0].timestamp * 1e-3,
        notes=notes,
    )


def _if_all_say(counts: Sequence[int | None]) -> NDArray[np.int32] | None:
    said = [count for count in counts if count is not None]
    return np.array(said, dtype=np.int32) if len(said) == len(counts) else None


def _missing(rows: Sequence[TraceLine]) -> int:
    """How many sequence numbers are absent between the first and the last of each ``boot_id``."""
    seqs: dict[str, set[int]] = {}
    for row in rows:
        seqs.setdefault(row.boot_id, set()).add(row.seq)
    return sum(max(seen) - min(seen) + 1 - len(seen) for seen in seqs.values())
