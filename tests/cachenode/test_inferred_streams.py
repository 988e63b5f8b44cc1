"""Requests of engines with ranks and pools of connections, overlapping: each becomes one line."""

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from benches.engine_streams import Fleet, Habit, lines_of

from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access, Inference

if TYPE_CHECKING:
    from kvtide_cachenode.access_trace.ring import Inferred


@pytest.mark.parametrize(
    ("habit", "ranks", "pool"),
    [
        ("redis", 1, 1), ("redis", 1, 8), ("redis", 2, 8), ("redis", 8, 16),
        ("lm", 1, 1), ("lm", 2, 4), ("sglang", 1, 4), ("sglang", 4, 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("rate", "engines"), [(5.0, 1), (9.0, 3)])
def test_one_request_is_one_line(habit: Habit, ranks: int, pool: int, rate: float, engines: int) -> None:
    fleet = Fleet(habit, ranks, pool, engines=engines)
    sent, (lines,) = lines_of(fleet, 120, rate=rate)
    asked = sum(len(request.blocks) for request in sent)
    told = sum(len(line.blocks) for line in lines)
    assert len(lines) == pytest.approx(len(sent), rel=0.02)
    assert told == pytest.approx(asked, rel=0.02)
    hit_ratio = sum(fleet.hits.values()) / asked
    assert sum(line.hit_blocks for line in lines) / told == pytest.approx(hit_ratio, rel=0.02)
    reused = 1 - len({block for request in sent for block in request.blocks}) / asked
    assert 1 - len({block for line in lines for block in line.blocks}) / told == pytest.approx(
        reused, rel=0.02
    )
    assert not [line for line in lines if line.doubt]


def test_clients_whose_keys_name_no_rank_are_doubted_where_they_ask_at_once() -> None:
    lines: list[Inferred] = []
    requests = Inference(lines.append)
    first, second = Client(requests), Client(requests)
    for at_s in (100.0, 130.0):
        first.access(Access.LOOK_UP, [b"a", b"b"], [True, False], at_s)
        second.access(Access.LOOK_UP, [b"a", b"b"], [True, False], at_s + 0.01)
    first.access(Access.LOOK_UP, [b"a"], [True], 160.0)
    requests.end()
    assert [line.doubt for line in lines] == [None, "ranks", None, "ranks", None]


@pytest.mark.parametrize("nodes", [1, 2])
def test_look_ups_in_pieces_over_several_connections_are_doubted(nodes: int) -> None:
    _, told = lines_of(Fleet("resp", 1, 8, nodes), 120, rate=5.0)
    lines = [line for lines in told for line in lines]
    doubts = [line.doubt for line in lines if line.doubt != "stores"]
    assert doubts.count("connections") > 0.9 * len(doubts)


def test_what_was_only_stored_is_doubted() -> None:
    lines: list[Inferred] = []
    requests = Inference(lines.append)
    Client(requests).access(Access.STORE, [b"a", b"b"], [False, False], 100.0)
    requests.end()
    assert [(len(line.blocks), line.hit_blocks, line.doubt) for line in lines] == [(2, 0, "stores")]


@pytest.mark.parametrize("key_bytes", [40, 250, 15_000])
def test_memory_is_bounded_in_bytes(key_bytes: int) -> None:
    requests = Inference(lambda _: None)
    clients = [Client(requests, f"host-{number}") for number in range(50)]
    tracemalloc.start()
    try:
        for number in range(6_000):
            key = b"m@8@%d@%d@half" % (number % 8, number)
            key += b"@tag%" + b"x" * (key_bytes - len(key))
            at_s = 100.0 + number * 0.0007
            clients[number % 50].access(Access.LOOK_UP, [key], [False], at_s)
        kept_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept_bytes < 16 << 20
