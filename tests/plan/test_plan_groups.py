"""Groups of blocks on tries small enough to draw, and their properties on random ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.plan.groups import FEATURE_GROUPS, branching_depth, feature_groups, subtree_groups
from kvtide_operator.plan.miss_stream import miss_stream
from kvtide_operator.simulate.cache.passes import cache_pass
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.requests import requests_of


def test_a_shared_root_is_not_a_group(trace_of):
    #        1 - 2 - 3
    #  0 <   4 - 5        : requests differ first at depth 1
    #        6
    trace = trace_of([0, 1, 2], [0, 1, 2, 3], [0, 4, 5], [0, 4], [0, 1], [0, 6])
    assert branching_depth(trace) == 1
    group = dict(zip(trace.block_ids.tolist(), subtree_groups(trace, 1).tolist(), strict=True))
    assert group == {0: 1, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1}
    group = dict(zip(trace.block_ids.tolist(), subtree_groups(trace, 2).tolist(), strict=True))
    assert group == {0: 2, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 2}


def test_subtrees_are_ranked_by_what_was_known(trace_of):
    trace = trace_of([1], [1, 2], [3], [3, 4], [3, 5])
    later = dict(zip(trace.block_ids.tolist(), subtree_groups(trace, 1).tolist(), strict=True))
    early = dict(
        zip(trace.block_ids.tolist(), subtree_groups(trace, 1, until_request=2).tolist(), strict=True)
    )
    assert later == {1: 1, 2: 1, 3: 0, 4: 0, 5: 0}
    assert early == {1: 0, 2: 0, 3: 1, 4: 1, 5: 1}


def test_more_subtrees_than_there_are_leave_the_rest_empty(trace_of):
    trace = trace_of([1], [2])
    assert sorted(subtree_groups(trace, 5).tolist()) == [0, 1]
    # One path alone never branches: it is one subtree from its first block.
    assert subtree_groups(trace_of([1, 2]), 3).tolist() == [0, 0]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=20), st.integers(0, 4)
)
def test_a_block_and_what_follows_it_share_a_group_below_the_branching_depth(trace_of, paths, subtrees):
    ids: dict[tuple[int, ...], int] = {}
    rows = [[ids.setdefault(tuple(path[: i + 1]), len(ids)) for i in range(len(path))] for path in paths]
    trace = trace_of(*rows)
    group = subtree_groups(trace, subtrees)
    depth = branching_depth(trace)
    for request in range(trace.requests):
        of_path = group[trace.blocks_of(request)]
        assert len(set(of_path[depth:].tolist())) <= 1
        assert (of_path[:depth] == subtrees).all() or depth == 0
    assert group.max() <= subtrees


def test_features_are_what_was_known_at_the_demotion(trace_of):
    """Without GPU cache and DRAM every request demotes what it asked for at once."""
    trace = trace_of([1, 2], [1], [1], [1])
    requests = requests_of(trace, "mooncake")
    stream = miss_stream(cache_pass(requests, empty_pool(requests, 1, 0, 0, "writeThrough", "roundRobin")))
    by_row = list(
        zip(trace.block_ids[stream.block].tolist(), feature_groups(trace, stream).tolist(), strict=True)
    )
    one, deep = (
        [group for block, group in by_row if block == 1],
        [group for block, group in by_row if block == 2],
    )
    assert one == [0, 3, 6, 6]
    assert deep == [0]
    assert max(one) < FEATURE_GROUPS


def test_an_empty_trace_has_no_groups(trace_of):
    trace = trace_of()
    assert subtree_groups(trace, 3).tolist() == []
    assert np.asarray(branching_depth(trace)) == 0
