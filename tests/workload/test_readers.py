"""Every format becomes the same trace; what is wrong is said with its file, line and reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.workload.readers import parse_trace, read_trace
from kvtide_operator.workload.readers.bailian import whole_prefixes
from kvtide_operator.workload.readers.node import read_node_lines
from kvtide_operator.workload.readers.text import MAX_LINE_BYTES, TraceText
from kvtide_operator.workload.trace import Trace, TraceError

MOONCAKE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation.jsonl"
SPLITWISE = MOONCAKE.with_name("splitwise_conv.csv")


def row(timestamp: float = 0, tokens: int = 1000, ids: list[int] | None = None, **more: object) -> str:
    ids = [1, 2] if ids is None else ids
    fields = {"timestamp": timestamp, "input_length": tokens, "output_length": 7, "hash_ids": ids}
    return json.dumps(fields | more)


def node_row(seq: int, timestamp: float, ids: list[int], **more: object) -> str:
    said = {"observed_at": "engine", "weight": 1, "seq": seq, "boot_id": "a"}
    return row(timestamp, 512 * len(ids), ids, **(said | more))


def chat_row(timestamp: float, tokens: int, ids: list[int]) -> str:
    return row(timestamp, tokens, ids, chat_id=1, parent_chat_id=-1, type="text", turn=1)


def read(*lines: str, block_tokens: int | None = None) -> Trace:
    return parse_trace(TraceText("t.jsonl", "\n".join(lines).encode()), block_tokens=block_tokens)


def test_mooncake_rows_become_columns() -> None:
    trace = read(row(500, 1000, [7, 9]), row(2500, 1400, [7, 9, 4]), row(2500, 0, []))
    assert trace.arrival_s.tolist() == [0.0, 2.0, 2.0]
    assert trace.input_tokens.tolist() == [1000, 1400, 0]
    assert trace.output_tokens.tolist() == [7, 7, 7]
    assert trace.block_start.tolist() == [0, 2, 5, 5]
    assert trace.blocks.tolist() == [0, 1, 0, 1, 2]
    assert trace.block_ids.tolist() == [7, 9, 4]
    assert trace.block_tokens == 512
    assert trace.observed_at == "engine"


def test_bailian_counts_seconds_and_blocks_of_16() -> None:
    trace = read(chat_row(61.5, 33, [3, 4, 5]), chat_row(62.0, 20, [3, 6]))
    assert trace.arrival_s.tolist() == [0.0, 0.5]
    assert trace.block_tokens == 16
    assert trace.blocks.tolist() == [0, 1, 2, 0, 3]


def test_bailian_ids_that_are_not_prefixes_are_told_apart() -> None:
    trace = read(chat_row(0, 33, [3, 4, 5]), chat_row(1, 33, [9, 4, 5]), chat_row(2, 33, [3, 4, 6]))
    assert trace.blocks.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 6]


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=12))
def test_whole_prefixes_are_equal_exactly_where_the_prefixes_are(requests: list[list[int]]) -> None:
    ids = np.array([block for blocks in requests for block in blocks], dtype=np.int64)
    found = whole_prefixes(ids, np.array([len(blocks) for blocks in requests]))
    prefixes = [tuple(blocks[: end + 1]) for blocks in requests for end in range(len(blocks))]
    pairs = set(zip(prefixes, found.tolist(), strict=True))
    assert len(pairs) == len({prefix for prefix, _ in pairs}) == len({node for _, node in pairs})


def test_splitwise_has_lengths_and_no_blocks() -> None:
    text = TraceText("t.csv", b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n2.0,396,109\n")
    trace = parse_trace(text)
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.input_tokens.tolist() == [374, 396]
    assert len(trace.blocks) == trace.unique_blocks == 0


def test_nodes_exports_concatenate_in_any_order() -> None:
    here = [node_row(5, 3000, [1]), node_row(6, 5000, [2], hit_blocks=1)]
    there = [node_row(1, 4000, [3], boot_id="b", weight=2.5)]
    trace = read(*here, *there, here[0])
    assert trace.block_ids.tolist() == [1, 3, 2]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert trace.weight.tolist() == [1.0, 2.5, 1.0]
    assert trace.started_at_s == 3.0
    assert trace.hit_blocks is None
    assert trace.notes == ("1 lines occur more than once and count once",)


def test_engines_lines_win_over_inferred_ones_and_gaps_are_said() -> None:
    trace = read(node_row(1, 1000, [1], observed_at="node"), node_row(4, 2000, [2], hit_blocks=1))
    assert trace.block_ids.tolist() == [2]
    assert trace.observed_at == "engine"
    assert trace.hit_blocks is not None
    assert trace.hit_blocks.tolist() == [1]
    assert any("2 lines are missing" in note for note in trace.notes)
    assert any("1 lines that nodes inferred are left out" in note for note in trace.notes)


def test_inferred_lines_alone_are_kept_as_inferred() -> None:
    assert read(node_row(1, 1000, [1], observed_at="node")).observed_at == "node"


def test_a_live_loop_outlives_odd_lines_and_silence() -> None:
    odd = row(1000, 9, [1, 2, 3], observed_at="engine", weight=1, seq=1, boot_id="a")
    trace = read_node_lines(odd.encode(), block_tokens=512)
    assert trace is not None
    assert trace.block_tokens == 512
    assert read_node_lines(b"\n", block_tokens=512) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["{}"], "t.jsonl:1: '{}' begins no known trace format; known are Mooncake"),
        (["a,b,c", "1,2,3"], "t.jsonl:1: 'a,b,c' begins no known trace format"),
        (["[" * 100_000], "begins no known trace format"),
        ([""], "t.jsonl: the trace is empty"),
        ([row(), "", row(tokens=0.5)], "t.jsonl:3: Expected `int`, got `float` - at `$.input_length`"),
        ([row(), '{"timestamp": 1}'], "t.jsonl:2: Object missing required field `input_length`"),
        ([row(), row()[:-9]], "t.jsonl:2: Input data was truncated"),
        ([row(), row() + row()], "t.jsonl:2: JSON is malformed: trailing characters"),
        ([row(), *row().split("000")], "t.jsonl:2: Input data was truncated"),
        ([row(), "\x00"], "t.jsonl:2: JSON is malformed"),
        ([row(), row(ids=[1, -2])], "t.jsonl:2: Expected `int` >= 0 - at `$.hash_ids[1]`"),
        ([row(), row(x=[]).replace("[]", "[" * 100_000)], "t.jsonl:2: "),
        ([row(2), "", row(1)], "t.jsonl:3: time goes back from 2 to 1"),
        ([row(tokens=0)], "t.jsonl:1: 2 blocks for 0 tokens"),
        ([row(tokens=10, ids=[])], "t.jsonl:1: 0 blocks for 10 tokens"),
        (
            [row(), "", row(tokens=100)],
            "t.jsonl:3: 2 blocks for 100 tokens, but line 1 has 2 blocks for 1,000",
        ),
        ([chat_row(1, 16, [1]), row(2, 16, [1])], "t.jsonl:2: Object missing required field `chat_id`"),
        ([node_row(0, 1, [1], weight=0)], "t.jsonl:1: Expected `float` > 0.0 - at `$.weight`"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(lines: list[str], expected: str) -> None:
    with pytest.raises(TraceError) as error:
        read(*lines)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1.0,2", "has 2 values"),
        ("1.0,2,x", "is not a time such as 4.31"),
        ("nan,2,3", "is out of range"),
        ("1.0,-2,3", "is out of range"),
        ("0.1,2,3", "time goes back from 0.5 to 0.1"),
    ],
)
def test_a_bad_csv_line_is_named(line: str, reason: str) -> None:
    header = "arrived_at,num_prefill_tokens,num_decode_tokens"
    with pytest.raises(TraceError, match=f"^t.csv:4: .*{reason}"):
        parse_trace(TraceText("t.csv", f"{header}\n0.5,1,1\n\n{line}\n".encode()))


def test_the_block_size_is_derived_or_asked_for() -> None:
    assert read(row(tokens=300, ids=[1, 2, 3])).block_tokens == 128
    assert read(row(tokens=300, ids=[1, 2, 3]), row(tokens=201, ids=[1, 2, 3])).block_tokens == 100
    assert read(row(tokens=9, ids=[1])).block_tokens == 512
    wide = row(tokens=40, ids=[1, 2])
    assert read(wide).block_tokens == 32
    with pytest.raises(TraceError, match=r"blocks of 1025 to .* tokens fit every request"):
        read(row(tokens=1025, ids=[1]))
    assert read(row(tokens=1025, ids=[1]), block_tokens=4096).block_tokens == 4096
    with pytest.raises(TraceError, match=r"t.jsonl:2: 1 blocks for 600 tokens, not blocks of 512 tokens"):
        read(row(tokens=512, ids=[1]), row(tokens=600, ids=[1]), block_tokens=512)
    with pytest.raises(TraceError, match="at least 1"):
        read(wide, block_tokens=0)


@given(
    st.integers(1, 2000),
    st.lists(st.integers(0, 5000), min_size=1, max_size=10),
)
def test_the_derived_block_size_fits_every_request(block_tokens: int, lengths: list[int]) -> None:
    lines = [row(0, tokens, list(range(-(-tokens // block_tokens)))) for tokens in lengths]
    try:
        derived = read(*lines).block_tokens
    except TraceError as error:
        assert "fit every request" in str(error)  # noqa: PT017 - several sizes fit, none is a power of two
    else:
        assert all(-(-tokens // derived) == -(-tokens // block_tokens) for tokens in lengths)


def test_lines_are_bounded_and_chunks_lose_nothing() -> None:
    filler = row(0, 512 * 60_000, list(range(10**9, 10**9 + 60_000)))
    many = [row()] + [filler] * (2 * MAX_LINE_BYTES // len(filler) + 1)
    trace = read(*many, row(1))
    assert trace.requests == len(many) + 1
    assert trace.block_start[-1] == 4 + 60_000 * (len(many) - 1)
    with pytest.raises(TraceError, match=f"^t.jsonl:{len(many) + 1}: Object missing"):
        read(*many, "{}")
    long = row(x="x" * MAX_LINE_BYTES)
    for before in ([row()], many):
        with pytest.raises(TraceError, match=f"^t.jsonl:{len(before) + 1}: the line is longer than"):
            read(*before, long, row(1))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no.jsonl: No such file or directory"):
        read_trace(tmp_path / "no.jsonl")
    with pytest.raises(TraceError, match="Is a directory"):
        read_trace(tmp_path)


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"{MOONCAKE.name} is not beside the repository")
def test_the_published_mooncake_trace() -> None:
    trace = read_trace(MOONCAKE)
    assert (trace.requests, len(trace.blocks), trace.unique_blocks) == (12_031, 288_500, 182_790)
    assert trace.block_tokens == 512
    assert trace.span_s == pytest.approx(3537, abs=0.01)
    assert trace.input_tokens.mean() == pytest.approx(12_035, abs=1)


@pytest.mark.skipif(not SPLITWISE.exists(), reason=f"{SPLITWISE.name} is not beside the repository")
def test_the_published_splitwise_trace() -> None:
    trace = read_trace(SPLITWISE, require_blocks=False)
    assert trace.requests == 19_366
    assert len(trace.blocks) == 0
