"""JSONL with the token ids of every prompt: blocks are cut here, each named by the tokens up to its end.

As LLMServingSim publishes traces: ``arrival_time_ns``, ``input_tok_ids``, ``output_toks``.
"""

from hashlib import blake2b
from typing import Annotated

import msgspec
import numpy as np

from kvtide_operator.workload.readers.columns import Columns, RequestRow, Tokens
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace

BLOCK_TOKENS = 16
"""vLLM's own; another size is for the caller to say."""

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class TokenRow(msgspec.Struct, gc=False):
    """A request; what is not named here is left out."""

    arrival_time_ns: Annotated[float, msgspec.Meta(ge=0, le=2**63)]
    input_tok_ids: list[TokenId]
    output_toks: Tokens


def parse(text: TraceText, block_tokens: int | None) -> Trace:
    """The trace in this text.

    Raises:
        TraceError: a line is malformed, or time goes back.
    """
    tokens = BLOCK_TOKENS if block_tokens is None else block_tokens
    chunks = ([_named(row, tokens) for row in rows] for rows in text.rows(TokenRow))
    columns = Columns.gather(text, chunks)
    columns.require_rising()
    return columns.trace(
        tokens, seconds=1e-9, notes=(f"blocks of {tokens} tokens were cut from the token ids",)
    )


def _named(row: TokenRow, block_tokens: int) -> RequestRow:
    """The row with an id for each block, a partial last one included: a hash of all tokens up to its end."""
    data = np.array(row.input_tok_ids, dtype=np.uint32).tobytes()
    size, digest, ids = 4 * block_tokens, b"", []
    for start in range(0, len(data), size):
        digest = blake2b(digest + data[start : start + size], digest_size=8).digest()
        ids.append(int.from_bytes(digest) >> 1)
    return RequestRow(row.arrival_time_ns, len(row.input_tok_ids), row.output_toks, ids)
