"""Mooncake's JSONL: one request a line, one cumulative prefix hash a block of 512 tokens.

Source: the traces published with Mooncake (FAST'25). Timestamps are milliseconds from the trace's start.
"""

from kvtide_operator.workload.readers.columns import Columns, RequestRow
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace

BLOCK_TOKENS = 512


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text.

    Raises:
        TraceError: a line is malformed, time goes back, or no block size fits.
    """
    columns = Columns.gather(text, text.rows(RequestRow))
    columns.require_rising()
    return columns.trace(columns.block_tokens(block_tokens, BLOCK_TOKENS), seconds=1e-3)
