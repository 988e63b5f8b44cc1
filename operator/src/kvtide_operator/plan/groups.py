"""Which blocks share a TTL: prefix subtrees as in Kareto (section 4.3), or features that do not go stale."""

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.miss_stream import MissStream
from kvtide_operator.workload.trace import Trace

MAX_GROUPS = 126
"""Subtrees besides the residual: groups are int8."""

DEPTH_EDGES = (8, 32)
"""Depths in blocks at which the depth feature changes; ours: 4k and 16k tokens in blocks of 512."""

PAST_HITS = 3
"""Classes of past hits: none, one, more."""

FEATURE_GROUPS = PAST_HITS * (len(DEPTH_EDGES) + 1)
"""How many groups `feature_groups` tells apart."""


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


def feature_groups(trace: Trace, stream: MissStream) -> NDArray[np.int8]:
    """int8[rows]: the group of each demotion by its block's past hits (0, 1, more) and depth.

    Unlike a conversation's subtree, which ends with the conversation, these mean the same tomorrow.
    """
    lengths = np.diff(trace.block_start)
    place_depth = np.arange(len(trace.blocks)) - np.repeat(trace.block_start[:-1], lengths)
    depth = np.zeros(trace.unique_blocks, dtype=np.int64)
    depth[trace.blocks] = place_depth
    width = trace.requests + 1
    asked_by = np.repeat(np.arange(trace.requests), lengths)
    keys = np.sort(trace.blocks.astype(np.int64) * width + asked_by)
    of_row = stream.block.astype(np.int64) * width
    past = np.searchsorted(keys, of_row + stream.request, side="right") - np.searchsorted(keys, of_row) - 1
    shallow = np.digitize(depth[stream.block], DEPTH_EDGES)
    group = np.clip(past, 0, PAST_HITS - 1) * (len(DEPTH_EDGES) + 1) + shallow
    return np.asarray(group, dtype=np.int8)
