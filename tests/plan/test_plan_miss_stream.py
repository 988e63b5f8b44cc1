"""What reaches the SSD, and hits with prefix continuity, against an SSD simulated in twenty lines."""

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.plan.group_ttl import curves_of
from kvtide_operator.plan.miss_stream import miss_stream, prefix_hits
from kvtide_operator.simulate.cache.passes import cache_pass
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.requests import requests_of

paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=25)


def stream_of(trace, dram_blocks):
    requests = requests_of(trace, "mooncake")
    pool = empty_pool(requests, 1, 0, dram_blocks, "writeThrough", "roundRobin")
    return miss_stream(cache_pass(requests, pool))


def by_hand(trace, dram_blocks, ttl_s):
    """Prefix hits and block-seconds of DRAM (LRU) above an SSD with one TTL."""
    dram: OrderedDict[int, None] = OrderedDict()
    stamped: dict[int, float] = {}
    hits = 0
    block_seconds = 0.0
    for request in range(trace.requests):
        now = float(trace.arrival_s[request])
        blocks = trace.blocks_of(request).tolist()
        for block in blocks:
            if block not in dram and not (block in stamped and now - stamped[block] <= ttl_s):
                break
            hits += 1
        for block in blocks:
            dram[block] = None
            dram.move_to_end(block)
            if len(dram) > dram_blocks:
                victim, _ = dram.popitem(last=False)
                block_seconds += min(ttl_s, now - stamped.get(victim, now))
                stamped[victim] = now
    horizon = float(trace.arrival_s[-1])
    return hits, block_seconds + sum(min(ttl_s, horizon - at) for at in stamped.values())


@settings(deadline=None)
@given(paths, st.integers(0, 6), st.sampled_from([0.5, 1.0, 2.5, 4.0, 100.0]))
def test_hits_and_block_seconds_are_those_of_a_plain_simulation(trace_of, paths, dram_blocks, ttl_s):
    ids: dict[tuple[int, ...], int] = {}
    trace = trace_of(
        *[[ids.setdefault(tuple(path[: i + 1]), len(ids)) for i in range(len(path))] for path in paths]
    )
    stream = stream_of(trace, dram_blocks)
    hits, block_seconds = by_hand(trace, dram_blocks, ttl_s)
    rows = len(stream.block)
    assert prefix_hits(stream, np.full(rows, ttl_s)) == hits
    curve = curves_of(stream, np.zeros(rows, dtype=np.int8), 1)[0]
    assert np.isclose(curve.block_seconds(ttl_s), block_seconds)
    assert (stream.reuse_s[np.isfinite(stream.reuse_s)] <= stream.hold_s[np.isfinite(stream.reuse_s)]).all()


def test_gaps_are_measured_from_the_demotion_not_from_the_last_request(trace_of):
    # DRAM holds one block: 1 is asked for at 0 s, displaced by 2 at 1 s and asked for again at 3 s.
    stream = stream_of(trace_of([1], [2], [2], [1]), 1)
    assert stream.demoted_s.tolist() == [1.0, 3.0]
    assert stream.reuse_s.tolist() == [2.0, np.inf]
    assert stream.hold_s.tolist() == [2.0, 0.0]


def test_a_block_behind_a_gap_is_no_hit(trace_of):
    # Nothing is kept of block 1, everything of block 2: the prefix 1-2 begins with a miss.
    trace = trace_of([1, 2], [1, 2])
    stream = stream_of(trace, 0)
    keep_second = np.where(trace.block_ids[stream.block] == 2, 10.0, 0.0)
    keep_first = np.where(trace.block_ids[stream.block] == 1, 10.0, 0.0)
    assert prefix_hits(stream, keep_second) == 0
    assert prefix_hits(stream, keep_first) == 1
    assert prefix_hits(stream, np.full(len(stream.block), 10.0)) == 2
    assert prefix_hits(stream, np.full(len(stream.block), 10.0), from_request=2) == 0


def test_an_empty_trace_has_an_empty_stream(trace_of):
    stream = stream_of(trace_of(), 3)
    assert len(stream.block) == 0
    assert prefix_hits(stream, np.empty(0)) == 0
