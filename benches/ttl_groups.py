"""What the search bench holds the planner's TTL groups against: groups by features, and their hits."""

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.plan.miss_stream import MissStream
from kvtide_operator.workload.trace import Trace

DEPTH_EDGES = (8, 32)
"""Depths in blocks at which the depth feature changes; ours: 4k and 16k tokens in blocks of 512."""

PAST_HITS = 3
"""Classes of past hits: none, one, more."""

FEATURE_GROUPS = PAST_HITS * (len(DEPTH_EDGES) + 1)
"""How many groups `feature_groups` tells apart."""


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


def prefix_hits(stream: MissStream, row_ttl_s: NDArray[np.float64], from_request: int = 0) -> int:
    """Blocks hit with prefix continuity, GPU cache and DRAM included, if demotion i is kept ``row_ttl_s[i]``.

    A block counts only if every block before it in its request is there too, and the SSD has room for
    whatever the TTLs keep.

    Args:
        stream: the misses.
        row_ttl_s: float64[rows].
        from_request: count the hits of this request and later ones.
    """
    copied = stream.miss_row >= 0
    kept = np.zeros(len(copied), dtype=np.bool_)
    kept[copied] = stream.miss_gap_s[copied] <= row_ttl_s[stream.miss_row[copied]]
    hits = stream.hittable.copy()
    np.minimum.at(hits, stream.miss_request[~kept], stream.miss_depth[~kept])
    return int(hits[from_request:].sum())
