"""The curve equals an LRU cache simulated block by block, at every capacity."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.cli.curve import command
from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace, renumber

DEMO = Path(__file__).parents[2] / "operator/src/kvtide_operator/cli/demo.yaml"
MOONCAKE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation.jsonl"
PUBLISHED = {62.5: 0.045, 125: 0.054, 250: 0.087, 500: 0.178, 1000: 0.263, 2000: 0.332, 4000: 0.359}
needs_mooncake = pytest.mark.skipif(
    not MOONCAKE.exists(), reason=f"{MOONCAKE.name} is not beside the repository"
)


def trace_of(requests: list[list[int]], weight: list[float] | None = None) -> Trace:
    blocks, ids = renumber(np.array([block for request in requests for block in request], dtype=np.int64))
    return Trace(
        arrival_s=np.arange(len(requests), dtype=np.float64),
        input_tokens=np.array([16 * len(request) for request in requests], dtype=np.int32),
        output_tokens=np.zeros(len(requests), dtype=np.int32),
        block_start=np.cumsum([0, *map(len, requests)]),
        blocks=blocks,
        block_ids=ids,
        weight=np.array(weight or [1.0] * len(requests)),
        block_tokens=16,
    )


def simulated_hit_ratio(trace: Trace, capacity_blocks: int, first_request: int = 0) -> float:
    """Look up to the first miss, touch what hit, store the rest, evict the least recently used."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = requested = 0.0
    for request in range(trace.requests):
        blocks = trace.blocks_of(request).tolist()
        hit = 0
        while hit < len(blocks) and blocks[hit] in cache:
            cache.move_to_end(blocks[hit])
            hit += 1
        for block in blocks[hit:]:
            cache[block] = None
            cache.move_to_end(block)
            if len(cache) > capacity_blocks:
                cache.popitem(last=False)
        if request >= first_request:
            hits += hit * trace.weight[request]
            requested += len(blocks) * trace.weight[request]
    return hits / requested if requested else 0.0


# Without repeats within a request, as no prefix contains itself.
requests_strategy = st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), min_size=1, max_size=25)


@settings(deadline=None)  # the first call loads compiled code
@given(requests_strategy, st.data())
def test_the_curve_is_lru_with_prefix_continuity_at_every_capacity(
    requests: list[list[int]], data: st.DataObject
) -> None:
    weight = data.draw(
        st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=len(requests), max_size=len(requests))
    )
    first = data.draw(st.integers(0, len(requests)))
    trace = trace_of(requests, weight)
    curve = hit_curve(trace, first_request=first)
    ratios = [curve.hit_ratio_at(capacity) for capacity in range(12)]
    expected = [0.0, *(simulated_hit_ratio(trace, capacity, first) for capacity in range(1, 12))]
    assert ratios == pytest.approx(expected)
    assert ratios == sorted(ratios)
    assert curve.hit_ratio_infinite == pytest.approx(expected[-1])


def test_a_curve_worked_by_hand() -> None:
    # The second request's block 0 was used 3 blocks ago; its blocks 1 and 2 then 3 each.
    curve = hit_curve(trace_of([[0, 1, 2], [0, 1, 2], [0, 3]]))
    assert curve.hit_ratio_at(2.99) == 0.0
    assert curve.hit_ratio_at(3) == 4 / 8
    assert curve.capacity_blocks.tolist() == [3]
    assert hit_curve(trace_of([[], []])).hit_ratio_infinite == 0.0


@needs_mooncake
def test_the_published_hit_ratios() -> None:
    curve = hit_curve(read_trace(MOONCAKE))
    blocks_per_gib = 2**30 // (64 * 2**20)
    for capacity_gib, published in PUBLISHED.items():
        assert curve.hit_ratio_at(capacity_gib * blocks_per_gib) == pytest.approx(published, abs=0.005)
    assert curve.hit_ratio_infinite == pytest.approx(0.366, abs=0.001)


def lines(path: Path) -> Path:
    path.write_text(
        '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}\n'
        '{"timestamp": 9, "input_length": 1500, "output_length": 1, "hash_ids": [1, 2, 3]}\n'
    )
    return path


def test_the_command_tells_the_curve_as_json(tmp_path: Path) -> None:
    file = lines(tmp_path / "t.jsonl")
    result = CliRunner().invoke(
        command, [str(file), "--block-bytes", "1Gi", "--at", "1Gi,2Gi,2.5Gi", "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["points"] == [
        {"capacity_gib": 1.0, "hit_ratio": 0.0},
        {"capacity_gib": 2.0, "hit_ratio": 0.4},
        {"capacity_gib": 2.5, "hit_ratio": 0.4},
    ]
    assert said["hit_ratio_infinite"] == 0.4
    assert (said["blocks"], said["unique_blocks"]) == (5, 3)
    assert said["wall_s"] > said["stack_distance_s"] >= 0


def conversation(path: Path, block_tokens: int) -> Path:
    """The same 2,048 tokens asked for twice, in blocks of so many tokens."""
    ids = list(range(2048 // block_tokens))
    row = {"timestamp": 0, "input_length": 2048, "output_length": 1, "hash_ids": ids}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    return path


def bytes_to_hit(*arguments: str) -> tuple[int, int]:
    """Bytes of a block, and of the smallest power of two that hits."""
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    return said["block_bytes"], next(p["capacity_gib"] for p in said["points"] if p["hit_ratio"]) * 2**30


def test_the_same_tokens_take_the_same_bytes_whatever_a_block_is(tmp_path: Path) -> None:
    small, large = (str(conversation(tmp_path / f"{n}.jsonl", n)) for n in (16, 512))
    assert bytes_to_hit(large) == (64 << 20, 256 << 20)
    assert bytes_to_hit(small) == (2 << 20, 256 << 20)
    model = tmp_path / "cache.yaml"
    model.write_text(DEMO.read_text())  # 248 bytes a token
    assert bytes_to_hit(small, "-f", str(model)) == (248 * 16, 512 << 10)
    assert bytes_to_hit(small, "--block-bytes", "1Ki") == (1024, 128 << 10)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_command_draws_the_curve(tmp_path: Path, suffix: str) -> None:
    file, plot = lines(tmp_path / "t.jsonl"), tmp_path / f"curve.{suffix}"
    result = CliRunner().invoke(command, [str(file), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert plot.read_bytes()[:100].lstrip().startswith((b"<?xml", b"\x89PNG"))
    assert "infinite" in result.output
    assert "0.400" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--at", "many"], "--at: 'many' is not a quantity"),
        (["--block-bytes", "0"], "--block-bytes: '0' is no size"),
        (["--plot", "no/such/folder.svg"], "--plot no/such/folder.svg: "),
        (["--plot", "curve.exe"], "--plot curve.exe: "),
        (["--block-bytes", "1Ki", "-f", str(DEMO)], "--block-bytes and -f both say what a block takes"),
        (["-f", "no.yaml"], "no.yaml"),
        (["--block-tokens", "7"], "not blocks of 7 tokens"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(command, [str(lines(tmp_path / "t.jsonl")), *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_missing_trace_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "no.jsonl")])
    assert result.exit_code == 2
    assert "no.jsonl: No such file or directory" in result.output
