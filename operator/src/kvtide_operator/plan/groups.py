"""Which blocks share a TTL: prefix subtrees as in Kareto (section 4.3)."""

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.workload.trace import Trace

MAX_GROUPS = 126
"""Subtrees besides the residual: groups are int8."""


def subtree_groups(trace: Trace, subtrees: int, until_request: int | None = None) -> NDArray[np.int8]:
    """int8[unique blocks]: 0 to ``subtrees`` - 1 for the most requested prefix subtrees, then the rest.

    Subtrees hang at the first depth at which requests differ. At depth 0 all requests of a trace may share a
    system prompt, and then all would be one group. Blocks above that depth belong to the rest.

    Args:
        trace: what the blocks are numbered by.
        subtrees: K, at most `MAX_GROUPS`.
        until_request: rank subtrees by the requests before this one only, to test on what follows.
    """
    assert 0 <= subtrees <= MAX_GROUPS
    group = np.full(trace.unique_blocks, subtrees, dtype=np.int8)
    depth = branching_depth(trace)
    lengths = np.diff(trace.block_start)
    deep = np.flatnonzero(lengths > depth)
    if len(deep) == 0:
        return group
    root = trace.blocks[trace.block_start[deep] + depth]
    known = deep < (trace.requests if until_request is None else until_request)
    popularity = np.bincount(root[known], minlength=trace.unique_blocks)
    ranked = np.argsort(-popularity, kind="stable")[:subtrees]
    of_root = np.full(trace.unique_blocks, subtrees, dtype=np.int8)
    of_root[ranked] = np.arange(len(ranked), dtype=np.int8)
    of_root[popularity == 0] = subtrees
    request_group = np.full(trace.requests, subtrees, dtype=np.int8)
    request_group[deep] = of_root[root]
    place_depth = np.arange(len(trace.blocks)) - np.repeat(trace.block_start[:-1], lengths)
    below = place_depth >= depth
    group[trace.blocks[below]] = np.repeat(request_group, lengths)[below]
    return group


def branching_depth(trace: Trace) -> int:
    """The first place in the requests at which more than one block occurs; 0 for an empty trace."""
    lengths = np.diff(trace.block_start)
    for depth in range(int(lengths.max(initial=0))):
        at = trace.blocks[trace.block_start[:-1][lengths > depth] + depth]
        if (at != at[0]).any():
            return depth
    return 0
