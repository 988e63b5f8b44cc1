"""Requests as the simulator plays them: a row for each, with what is asked and what became of it."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.workload.trace import Trace

Semantics = Literal["mooncake", "vllm"]

ROW = np.dtype(
    [
        # What is asked. Kept are the leading blocks inserted when prefill finishes, hittable those that can
        # be hit, output blocks those that decoding fills; start is the place of the first block.
        ("arrival_s", "f8"),
        ("input_tokens", "i8"),
        ("output_tokens", "i8"),
        ("start", "i8"),
        ("hittable", "i8"),
        ("kept", "i8"),
        ("output_blocks", "i8"),
        # What the GPU cache and DRAM do: which engine serves it, leading blocks found there, demotions until
        # it is looked up, when its blocks are inserted, and which part of the demotions that causes.
        ("engine", "i8"),
        ("device_hits", "i8"),
        ("demotions_before", "i8"),
        ("inserted_s", "f8"),
        ("demoted_start", "i8"),
        ("demoted_end", "i8"),
        # What becomes of it: blocks from DRAM and SSD, tokens not computed, seconds of loading them, and when
        # its read from SSD is done, its prefill begins, its first token and its last are there.
        ("dram_hits", "i8"),
        ("ssd_hits", "i8"),
        ("cached_tokens", "i8"),
        ("load_s", "f8"),
        ("ready_s", "f8"),
        ("dispatch_s", "f8"),
        ("first_token_s", "f8"),
        ("finish_s", "f8"),
        # Where it stands: whether its prefix was looked up, leading blocks in DRAM by now, the request behind
        # it in a queue, its job in the channel, the seconds of it done.
        ("found", "b1"),
        ("stored", "i8"),
        ("behind", "i8"),
        ("read_job", "i8"),
        ("read_s", "f8"),
    ]
)
"""A request's row. One array of rows, because numba counts references for every array of every call."""

Rows = Any
"""An array of records, or one of them: numpy's types know nothing of their fields."""

NOBODY = -1
"""No request, no job."""
_NONE, _SEVERAL = -1, -2


class Requests(NamedTuple):
    """Requests in order of arrival, ready for numba.

    Attributes:
        row: `ROW`[requests].
        blocks: int32[accesses].
        successor: int32[blocks], the only block that ever follows a block, negative where none or several do.
        block_tokens: tokens in a full block.
    """

    row: Rows
    blocks: NDArray[np.int32]
    successor: NDArray[np.int32]
    block_tokens: int

    def afresh(self) -> "Requests":
        """The same requests, to be played again."""
        return self._replace(row=self.row.copy())


def requests_of(trace: Trace, semantics: Semantics) -> Requests:
    """The requests of a trace under an engine's rules.

    ``mooncake``: every block of the trace is cached and can hit, a partial last one too. ``vllm``: only full
    blocks are cached, at most all tokens but one can hit, and blocks that decoding fills are cached where the
    trace tells their names, that is where every later request goes on in the same way.
    """
    row = np.zeros(trace.requests, dtype=ROW).view(np.recarray)
    row.arrival_s = trace.arrival_s
    row.input_tokens = trace.input_tokens
    row.output_tokens = np.maximum(trace.output_tokens, 1)  # an engine always makes a first token
    row.start = trace.block_start[:-1]
    row.read_job = NOBODY
    for outcome in ("ready_s", "dispatch_s", "first_token_s", "finish_s"):
        row[outcome] = np.nan
    count = np.diff(trace.block_start)
    successor = np.full(trace.unique_blocks, _NONE, dtype=np.int32)
    if semantics == "mooncake":
        row.hittable = row.kept = count
    else:
        full = row.input_tokens // trace.block_tokens
        row.kept = np.minimum(full, count)
        row.hittable = np.minimum(np.maximum(row.input_tokens - 1, 0) // trace.block_tokens, count)
        row.output_blocks = (row.input_tokens + row.output_tokens) // trace.block_tokens - full
        _find_successors(row, trace.blocks, successor)
    return Requests(row, trace.blocks, successor, trace.block_tokens)


@njit(cache=True)
def _find_successors(row: Rows, blocks: NDArray[np.int32], successor: NDArray[np.int32]) -> None:
    for request in row:
        for at in range(request.start, request.start + request.kept - 1):
            known = successor[blocks[at]]
            if known == _NONE:
                successor[blocks[at]] = blocks[at + 1]
            elif known != blocks[at + 1]:
                successor[blocks[at]] = _SEVERAL


@njit(cache=True)
def prompt_of(requests: Requests, request: int) -> NDArray[np.int32]:
    """The blocks of a prompt that are kept, root first."""
    row = requests.row[request]
    return requests.blocks[row.start : row.start + row.kept]


@njit(cache=True)
def answer_of(requests: Requests, request: int) -> NDArray[np.int32]:
    """The blocks that the answer to a request fills, as far as the trace tells their names."""
    row = requests.row[request]
    names = np.empty(row.output_blocks, dtype=np.int32)
    known = 0
    if row.kept > 0:
        block = requests.blocks[row.start + row.kept - 1]
        while known < len(names) and requests.successor[block] >= 0:
            block = requests.successor[block]
            names[known] = block
            known += 1
    return names[:known]
