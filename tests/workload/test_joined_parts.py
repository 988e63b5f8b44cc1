"""Requests of which several nodes saw a part each."""

import pytest
from benches.engine_streams import Fleet, lines_of

from kvtide_cachenode.access_trace.ring import Inferred, TraceRing
from kvtide_operator.workload.readers.node import read_node_lines
from kvtide_operator.workload.readers.parts import joined


def exported(told):
    """What the nodes answer, one after the other."""
    data = b""
    for number, lines in enumerate(told):
        ring = TraceRing(f"node-{number}")
        for line in lines:
            ring.append_inferred(line, 16)
        data += ring.read(None).lines
    return data


@pytest.mark.parametrize("nodes", [2, 4])
@pytest.mark.parametrize(("habit", "ranks"), [("redis", 1), ("redis", 8), ("lm", 2), ("sglang", 4)])
def test_hits_and_reuse_of_several_nodes_are_those_of_the_requests(habit, ranks, nodes):
    fleet = Fleet(habit, ranks, 8, nodes)
    sent, told = lines_of(fleet, 120, rate=1.0)
    trace = read_node_lines(exported(told), block_tokens=16)
    asked = sum(len(request.blocks) for request in sent)
    reused = 1 - len({block for request in sent for block in request.blocks}) / asked
    assert trace.hit_blocks.sum() / len(trace.blocks) == pytest.approx(
        sum(fleet.hits.values()) / asked, rel=0.02
    )
    assert 1 - trace.unique_blocks / len(trace.blocks) == pytest.approx(reused, rel=0.02)
    assert len(trace.blocks) == pytest.approx(asked, rel=0.02)
    assert trace.requests == pytest.approx(len(sent), rel=0.03)  # without joining: 1.6 to 4 times as many


def test_parts_are_joined_by_the_time_they_are_looked_up_and_stored():
    one = [Inferred(1_000, [1, 3, 5], 2, 1_500), Inferred(9_000, [11], 0, 9_100)]
    other = [Inferred(1_002, [2], 1), Inferred(1_510, [4, 6], 0, 1_510, "stores"), Inferred(5_000, [7], 1)]
    trace = read_node_lines(exported([one, other]), block_tokens=16)
    chains = [trace.block_ids[trace.blocks_of(at)].tolist() for at in range(trace.requests)]
    assert sorted(map(sorted, chains)) == [[1, 2, 3, 5], [4, 6], [7], [11]]
    assert trace.hit_blocks.tolist() == [3, 0, 1, 0]
    assert trace.notes == ("1 lines were parts of others, which several nodes had seen",)


def test_lines_of_one_node_stay_as_they_are():
    lines = [Inferred(1_000, [1], 1), Inferred(1_001, [2], 0)]
    assert read_node_lines(exported([lines]), block_tokens=16).requests == 2
    assert joined([]) == []


def test_unreliable_lines_are_left_out_and_the_reason_is_said():
    lines = [Inferred(1_000, [1], 1), Inferred(1_001, [1], 1, None, "ranks")]
    trace = read_node_lines(exported([lines]), block_tokens=16)
    assert trace.requests == 1
    assert trace.notes == (trace.unreliable,)
    assert "50% of the requests that nodes inferred are left out as unreliable" in trace.unreliable
