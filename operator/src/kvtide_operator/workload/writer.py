"""Traces as Mooncake JSONL, which every reader of public traces takes."""

from collections.abc import Sequence
from typing import BinaryIO

import msgspec
import numpy as np

from kvtide_cachenode.contract.trace_line import TraceLine
from kvtide_operator.workload.trace import Trace

_CHUNK_REQUESTS = 4096


def write_mooncake(trace: Trace, file: BinaryIO) -> None:
    """Write one line a request: ``timestamp`` in whole ms, lengths in tokens, ``hash_ids`` of the source.

    Weights other than 1 have no place in the format and must not be there.
    """
    assert np.all(trace.weight == 1), "Mooncake's format has no weights"
    timestamp_ms = np.rint(trace.arrival_s * 1e3).astype(np.int64).tolist()
    input_tokens, output_tokens = trace.input_tokens.tolist(), trace.output_tokens.tolist()
    encoder = msgspec.json.Encoder()
    for first in range(0, trace.requests, _CHUNK_REQUESTS):
        rows = [
            {
                "timestamp": timestamp_ms[request],
                "input_length": input_tokens[request],
                "output_length": output_tokens[request],
                "hash_ids": trace.block_ids[trace.blocks_of(request)].tolist(),
            }
            for request in range(first, min(first + _CHUNK_REQUESTS, trace.requests))
        ]
        file.write(encoder.encode_lines(rows))


def encode_node_line(
    *,
    arrived_s: float,
    input_tokens: int,
    output_tokens: int,
    block_ids: Sequence[int],
    seq: int,
    boot_id: str,
) -> bytes:
    """A line as kvtide's nodes export it, of a request that an engine told of; ``arrived_s`` is Unix time."""
    row = TraceLine(
        timestamp=int(arrived_s * 1e3),
        input_length=input_tokens,
        output_length=output_tokens,
        hash_ids=list(block_ids),
        observed_at="engine",
        weight=1,
        seq=seq,
        boot_id=boot_id,
    )
    return msgspec.json.encode(row) + b"\n"
