"""Replay against real cache nodes: what the planner's curve says must be what they do."""

import json
import subprocess
import sysconfig
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.targets import Target, parse_targets
from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.workload.generate import generate

BLOCK_BYTES = 64 * 1024
ENTRY_BYTES = BLOCK_BYTES + 4096 + 700
"""What a node charges for an entry, rounded up: value and page, a key of under 20 bytes, metadata."""
OPTIONS = ReplayOptions(block_bytes=BLOCK_BYTES)


@dataclass
class Node:
    target: Target
    admin: str

    def trace(self) -> list[dict[str, object]]:
        with urllib.request.urlopen(f"http://{self.admin}/v1/trace") as page:
            return [json.loads(line) for line in page]


@pytest.fixture
def start_node() -> Iterator[Callable[[int], Node]]:
    processes = []

    def start(dram_bytes: int) -> Node:
        serve = [Path(sysconfig.get_path("scripts"), "kvtide-node"), "serve", "--dram", str(dram_bytes)]
        process = subprocess.Popen(
            [*serve, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], stdout=subprocess.PIPE
        )
        processes.append(process)
        ready = json.loads(process.stdout.readline())
        return Node(parse_targets(ready["listen"])[0], ready["admin"])

    yield start
    for process in processes:
        process.terminate()
        process.communicate()


def lru_hits(requests: list[list[int]], capacity_blocks: int) -> int:
    """Blocks hit by an LRU cache that is looked up up to the first miss, counted the slow way."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for request in requests:
        first_miss = next((index for index, block in enumerate(request) if block not in held), len(request))
        hits += first_miss
        for block in request:
            held[block] = None
            held.move_to_end(block)
            if len(held) > capacity_blocks:
                held.popitem(last=False)
    return hits


@pytest.mark.parametrize("capacity_blocks", [20, 100, 300])
def test_hits_are_those_of_an_lru_cache(
    start_node, make_trace, branching_requests, capacity_blocks: int
) -> None:
    node = start_node(capacity_blocks * ENTRY_BYTES)
    report = uvloop.run(replay(make_trace(branching_requests), [node.target], OPTIONS))
    assert report.blocks_hit == lru_hits(branching_requests, capacity_blocks)
    assert (report.errors, report.wrong_bytes) == (0, 0)


def test_the_hit_ratio_is_the_curves(start_node) -> None:
    trace = generate(profile="chat", requests=200, rate_per_s=1.0, seed=3)
    curve = hit_curve(trace)
    capacity_blocks = trace.unique_blocks // 4
    node = start_node(capacity_blocks * ENTRY_BYTES)
    report = uvloop.run(replay(trace, [node.target], OPTIONS))
    assert report.prefix_hit_ratio == pytest.approx(curve.hit_ratio_at(capacity_blocks), abs=0.01)
    assert 0.01 < report.prefix_hit_ratio < curve.hit_ratio_infinite - 0.01
    assert (report.errors, report.wrong_bytes) == (0, 0)


def test_every_request_is_reported_to_one_node(start_node, make_trace, branching_requests) -> None:
    nodes = [start_node(64 << 20), start_node(64 << 20)]
    trace = make_trace(branching_requests)
    options = ReplayOptions(block_bytes=4096, clock=lambda: 1_700_000_000.0)
    report = uvloop.run(replay(trace, [node.target for node in nodes], options))
    assert (report.errors, report.wrong_bytes) == (0, 0)
    lines = [line for node in nodes for line in node.trace() if line["observed_at"] == "engine"]
    assert sorted(line["hash_ids"] for line in lines) == sorted(branching_requests)
    assert sum(line["hit_blocks"] for line in lines) == report.blocks_hit
    assert {line["timestamp"] for line in lines} == {1_700_000_000_000}
    assert {line["output_length"] for line in lines} == {7}
    assert all(line["input_length"] == 16 * len(line["hash_ids"]) for line in lines)


def test_a_foreign_client_reports_nothing(start_node, make_trace) -> None:
    node = start_node(64 << 20)
    options = ReplayOptions(block_bytes=4096, report_requests=False)
    uvloop.run(replay(make_trace([[1, 2], [1, 2]]), [node.target], options))
    assert all(line["observed_at"] == "node" for line in node.trace())


def test_a_block_that_no_node_can_hold_is_an_error(start_node, make_trace) -> None:
    node = start_node(1 << 20)
    report = uvloop.run(replay(make_trace([[1], [1]]), [node.target], ReplayOptions(block_bytes=2 << 20)))
    assert (report.requests, report.blocks_hit, report.errors, report.gave_up) == (2, 0, 2, None)
