"""Readers: one file per trace format, recognised by the first line."""

from pathlib import Path

import msgspec

from kvtide_operator.workload.readers import bailian, lengths, mooncake, node, token_ids
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace, TraceError

_KNOWN = (
    "Mooncake JSONL (timestamp, input_length, output_length, hash_ids), Qwen-Bailian JSONL (also chat_id), "
    "kvtide node JSONL (also boot_id), JSONL with input_tok_ids, and, without blocks, CSV of Splitwise "
    "(arrived_at,num_prefill_tokens,num_decode_tokens), Azure (TIMESTAMP,ContextTokens,GeneratedTokens) and "
    "BurstGPT (Timestamp,…,Request tokens,Response tokens); each also packed by gzip or Zstandard"
)
NO_BLOCKS = (
    "the trace has no block ids, so nothing can be said of hits; give one with hash_ids or token ids,"
    " or record one with `kvtide trace record`"
)
_SHOWN_BYTES = 80


def read_trace(path: Path | str, *, block_tokens: int | None = None, require_blocks: bool = True) -> Trace:
    """The trace in a file of any known format.

    Args:
        path: the file.
        block_tokens: tokens in a block; without it, the size is derived from the rows.
        require_blocks: refuse a trace that does not say which blocks its requests share: nothing can be
            said of its hits.

    Raises:
        TraceError: file, line and reason, in one sentence.
    """
    trace = parse_trace(TraceText.read(Path(path)), block_tokens=block_tokens)
    if require_blocks and not len(trace.blocks):
        raise TraceError(f"{path}: {NO_BLOCKS}")
    return trace


def parse_trace(text: TraceText, *, block_tokens: int | None = None) -> Trace:
    """The trace in a text, such as the page a node's ``/v1/trace`` answers; otherwise as `read_trace`."""
    if block_tokens is not None and block_tokens < 1:
        raise TraceError(f"{block_tokens} tokens in a block are out of range; give at least 1")
    first = text.first_line()
    if not text.data.strip():
        raise TraceError(f"{text.name}: the trace is empty; give one with at least one request")
    if (known := lengths.format_of(first)) is not None:
        return lengths.parse(text, block_tokens, known)
    try:
        fields = msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    if isinstance(fields, dict) and "input_tok_ids" in fields:
        return token_ids.parse(text, block_tokens)
    if not isinstance(fields, dict) or not fields.keys() & {"hash_ids", "input_length"}:
        shown = first[:_SHOWN_BYTES].decode(errors="replace")
        raise text.error(text.line_of(0), f"{shown!r} begins no known trace format; known are {_KNOWN}")
    if "boot_id" in fields or "observed_at" in fields:
        return node.parse(text, block_tokens)
    if "chat_id" in fields:
        return bailian.parse(text, block_tokens)
    return mooncake.parse(text, block_tokens)
