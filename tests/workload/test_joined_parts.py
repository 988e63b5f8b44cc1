"""Requests of which several nodes saw a part each."""

import pytest
from benches.engine_streams import Fleet, lines_of

from kvtide_cachenode.access_trace.ring import Inferred, TraceRing
from kvtide_operator.workload.readers import parts
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


@pytest.mark.parametrize(("nodes", "rate"), [(2, 1.0), (2, 5.0), (4, 1.0)])
@pytest.mark.parametrize(("habit", "ranks"), [("redis", 1), ("redis", 8), ("lm", 2), ("sglang", 4)])
def test_lines_hits_and_reuse_of_several_nodes_are_those_of_the_requests(habit, ranks, nodes, rate):
    fleet = Fleet(habit, ranks, 8, nodes)
    sent, told = lines_of(fleet, 120, rate=rate)
    trace = read_node_lines(exported(told), block_tokens=16)
    asked = sum(len(request.blocks) for request in sent)
    reused = 1 - len({block for request in sent for block in request.blocks}) / asked
    assert trace.hit_blocks.sum() / len(trace.blocks) == pytest.approx(
        sum(fleet.hits.values()) / asked, rel=0.02
    )
    assert 1 - trace.unique_blocks / len(trace.blocks) == pytest.approx(reused, rel=0.02)
    assert len(trace.blocks) == pytest.approx(asked, rel=0.02)
    assert trace.requests == pytest.approx(len(sent), rel=0.02)  # without joining: 1.6 to 4 times as many


def chains(trace):
    return sorted(trace.block_ids[trace.blocks_of(at)].tolist() for at in range(trace.requests))


def test_parts_are_joined_by_the_time_they_are_looked_up_and_stored():
    one = [Inferred(1_000, [1, 3, 5], 2, 1_500), Inferred(90_000, [11], 0, 90_100)]
    other = [Inferred(1_002, [2], 1), Inferred(1_510, [4, 6], 0, 1_510, "stores"), Inferred(5_000, [7], 1)]
    other += [Inferred(30_000, [8], 0, 30_000, "stores")]
    trace = read_node_lines(exported([one, other]), block_tokens=16)
    assert [*map(sorted, chains(trace))] == [[1, 2, 3, 4, 5, 6], [7], [8], [11]]
    assert trace.hit_blocks.tolist() == [3, 1, 0, 0]
    assert trace.notes == ("2 lines were parts of others, which several nodes had seen",)


def part(at_ms, blocks, hits, *, client=7, asked_us=(0, 0), missed=False):
    return Inferred(at_ms, blocks, hits, client=client, asked_us=asked_us, missed=missed)


@pytest.mark.parametrize(
    ("other", "joined_to_one"),
    [
        (part(1_010, [2, 4], 2, asked_us=(0, 4_000)), True),  # it lies within
        (part(1_022, [2], 1), True),  # it follows the last step
        (part(1_022, [2], 1, client=8), False),  # another engine's
        (part(1_029, [2], 1), False),  # so long no step takes
        (part(1_010, [2], 0, missed=True), False),  # the look-up would have ended there
    ],
)
def test_parts_of_a_look_up_are_of_one_client_and_end_at_a_miss(other, joined_to_one):
    one = part(1_000, [1, 3, 5], 3, asked_us=(0, 20_000))
    trace = read_node_lines(exported([[one], [other]]), block_tokens=16)
    assert trace.requests == (1 if joined_to_one else 2)


def test_what_begins_after_another_nodes_miss_is_another_request():
    one = part(1_000, [1, 3], 1, asked_us=(0, 2_000), missed=True)
    trace = read_node_lines(exported([[one], [part(1_004, [2], 1)]]), block_tokens=16)
    assert trace.requests == 2


def test_a_line_is_held_against_a_bounded_number_of_requests(monkeypatch):
    looked_at, takes = [], parts._Request.takes

    def counting(self, *line):
        looked_at.append(1)
        return takes(self, *line)

    monkeypatch.setattr(parts._Request, "takes", counting)
    lines = [[part(1_000, [number * 2 + node], 1) for number in range(500)] for node in range(2)]
    assert read_node_lines(exported(lines), block_tokens=16).requests >= 500
    assert len(looked_at) <= 1_000 * parts.MAX_RECENT


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
