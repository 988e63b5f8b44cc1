"""Qwen-Bailian's JSONL: one request a line, one hash a block of 16 tokens, timestamps in seconds.

Source: alibaba-edu/qwen-bailian-usagetraces-anon, published with "KVCache in the wild" (ATC'25). Its
description says that each block is hashed, not that its prefix is; a trace's ids stand for whole prefixes,
so that where an id follows different ids its occurrences are told apart.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.workload.readers.columns import Columns, RequestRow
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace

BLOCK_TOKENS = 16


class BailianRow(RequestRow, gc=False):
    """A request; the conversation it belongs to must be there, but a trace has no column for it."""

    chat_id: int
    parent_chat_id: int


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text.

    Raises:
        TraceError: a line is malformed, time goes back, or no block size fits.
    """
    columns = Columns.gather(text, text.rows(BailianRow))
    columns.require_rising()
    tokens = columns.block_tokens(block_tokens, BLOCK_TOKENS)
    return replace(columns, ids=whole_prefixes(columns.ids, columns.block_count)).trace(tokens, seconds=1.0)


def whole_prefixes(ids: NDArray[np.int64], block_count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids that are equal only where the whole prefixes are: ``ids`` itself if it is so already.

    Args:
        ids: int64[accesses], the requests' block ids one after the other.
        block_count: int64[requests].
    """
    count = block_count[block_count > 0]
    before = np.empty_like(ids)
    before[1:] = ids[:-1]
    before[np.cumsum(count) - count] = -1
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    if np.array_equal(before[first][inverse], before):
        return ids
    node_of: dict[tuple[int, int], int] = {}
    nodes = np.empty(len(ids), dtype=np.int64)
    parent = -1
    for at, (previous, block) in enumerate(zip(before.tolist(), ids.tolist(), strict=True)):
        parent = node_of.setdefault((-1 if previous < 0 else parent, block), len(node_of))
        nodes[at] = parent
    return nodes
