"""Splitwise's CSV: arrival, prompt length, answer length, and nothing about prefixes.

Source: the Azure LLM inference traces published with Splitwise (ISCA'24), in seconds from the start. What
blocks the requests share is not known and not guessed: the trace has none.
"""

import math

import numpy as np

from kvtide_operator.workload.readers.columns import MAX_TOKENS, Columns
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace, TraceError

HEADER = b"arrived_at,num_prefill_tokens,num_decode_tokens"
BLOCK_TOKENS = 512
"""What the trace says of a block's size when nobody does; without blocks nothing depends on it."""


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text, without blocks.

    Raises:
        TraceError: a line is malformed, time goes back, or there is no request.
    """
    rows = []
    for number, line in enumerate(text.data.split(b"\n")[1:], 2):
        if stripped := line.strip():
            try:
                rows.append(_row(stripped))
            except ValueError as error:
                raise text.error(number, f"{stripped[:80].decode(errors='replace')!r} {error}") from None
    if not rows:
        raise TraceError(f"{text.name}: the trace is empty; give one with at least one request")
    arrived_s, prefill, decode = zip(*rows, strict=True)
    columns = Columns(
        text,
        row=np.arange(1, len(rows) + 1),
        timestamp=np.array(arrived_s, dtype=np.float64),
        input_tokens=np.array(prefill, dtype=np.int32),
        output_tokens=np.array(decode, dtype=np.int32),
        block_count=np.zeros(len(rows), dtype=np.int64),
        ids=np.zeros(0, dtype=np.int64),
    )
    columns.require_rising()
    return columns.trace(BLOCK_TOKENS if block_tokens is None else block_tokens, seconds=1.0)


def _row(line: bytes) -> tuple[float, int, int]:
    cells = line.split(b",")
    if len(cells) != 3:
        raise ValueError(f"has {len(cells)} values, not the 3 of {HEADER.decode()}")
    try:
        arrived_s, prefill, decode = float(cells[0]), int(cells[1]), int(cells[2])
    except ValueError:
        raise ValueError("is not a time in seconds and two whole numbers of tokens") from None
    if not (0 <= arrived_s < math.inf and 0 <= prefill <= MAX_TOKENS and 0 <= decode <= MAX_TOKENS):
        raise ValueError(f"is out of range: times from 0, tokens from 0 to {MAX_TOKENS}")
    return arrived_s, prefill, decode
