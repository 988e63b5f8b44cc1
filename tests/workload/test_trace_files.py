"""The page on traces by its own examples, and files as they come: packed, marked, cut off, empty."""

import gzip
import re
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from kvtide_operator.cli import main
from kvtide_operator.workload.readers import packed, read_trace, text
from kvtide_operator.workload.trace import Trace, TraceError

PAGE = (Path(__file__).parents[2] / "docs" / "traces.md").read_text("utf-8")
EXAMPLES = re.findall(r"```(?:jsonl|csv)\n(.*?)```", PAGE, re.DOTALL)
WITH_BLOCKS = PAGE.partition("## Without blocks")[0]
ROWS = EXAMPLES[0].encode()


def trace_in(tmp_path: Path, data: bytes, name: str = "trace") -> Trace:
    file = tmp_path / name
    file.write_bytes(data)
    return read_trace(file, require_blocks=False)


def same(one: Trace, other: Trace) -> bool:
    return all(
        getattr(one, name).tolist() == getattr(other, name).tolist()
        for name in ("arrival_s", "input_tokens", "output_tokens", "blocks", "block_ids")
    )


def test_there_is_an_example_of_every_format() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example[:30])
def test_every_example_of_the_page_is_read(tmp_path: Path, example: str) -> None:
    trace = trace_in(tmp_path, example.encode())
    assert trace.requests == 2
    assert 2 < trace.span_s < 60
    if example in WITH_BLOCKS:
        # All but the last block are shared.
        assert trace.blocks_of(0).tolist()[:-1] == trace.blocks_of(1).tolist()[:-1]
        assert trace.blocks_of(0)[-1] != trace.blocks_of(1)[-1]
    else:
        assert not len(trace.blocks)
    shown = CliRunner().invoke(main, ["trace", "info", str(tmp_path / "trace")])
    assert shown.exit_code == 0, shown.output


def test_times_of_day_are_seconds_from_the_first(tmp_path: Path) -> None:
    azure = next(example for example in EXAMPLES if example.startswith("TIMESTAMP"))
    trace = trace_in(tmp_path, azure.encode())
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 4.314579], abs=1e-5)
    assert trace.started_at_s == pytest.approx(1700158546.68059, abs=1e-3)
    zoned = trace_in(tmp_path, azure.replace("5900,", "59+01:00,").replace("1690,", "16+01:00,").encode())
    assert zoned.started_at_s == pytest.approx(trace.started_at_s - 3600, abs=1e-3)


def test_token_ids_share_what_they_have_in_common(tmp_path: Path) -> None:
    rows = [list(range(40)), [*range(32), 99], list(range(1, 40))]
    lines = [f'{{"arrival_time_ns": 0, "input_tok_ids": {row}, "output_toks": 1}}' for row in rows]
    trace = trace_in(tmp_path, "\n".join(lines).encode())
    assert trace.block_tokens == 16
    assert [trace.blocks_of(request).tolist() for request in range(3)] == [[0, 1, 2], [0, 1, 3], [4, 5, 6]]
    assert read_trace(tmp_path / "trace", block_tokens=32).blocks.tolist() == [0, 1, 0, 2, 3, 4]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


AS_FOUND = {
    "gzip": gzip.compress(ROWS),
    "two gzip members": gzip.compress(ROWS[:50]) + gzip.compress(ROWS[50:]),
    "zstandard": zstd(ROWS),
    "a byte order mark": b"\xef\xbb\xbf" + ROWS,
    "blank lines first": b"\n  \r\n\n" + ROWS,
    "CR LF": ROWS.replace(b"\n", b"\r\n"),
    "no end of line": ROWS.rstrip(),
    "a marked and packed file": gzip.compress(b"\xef\xbb\xbf\r\n" + ROWS),
}  # fmt: skip


@pytest.mark.parametrize("how", AS_FOUND)
def test_a_file_is_read_as_it_is_found(tmp_path: Path, how: str) -> None:
    plain = trace_in(tmp_path, ROWS)
    assert same(trace_in(tmp_path, AS_FOUND[how]), plain)


@pytest.mark.parametrize("example", [each for each in EXAMPLES if each not in WITH_BLOCKS])
def test_a_csv_is_read_as_it_is_found(tmp_path: Path, example: str) -> None:
    plain, lines = trace_in(tmp_path, example.encode()), example.splitlines()
    found = "\ufeff\r\n" + "\r\n".join([lines[0], "", *lines[1:]])
    assert same(trace_in(tmp_path, found.encode()), plain)
    with pytest.raises(TraceError, match=r"trace:5: '.*' has 1 values, not the"):
        trace_in(tmp_path, (found + "\r\nx").encode().replace(b"\r\n\r\n", b"\r\n"))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_cut_or_damaged_file_is_one_sentence(tmp_path: Path, pack) -> None:
    whole = pack(ROWS * 5000)
    for broken in (whole[: len(whole) // 2], whole[:40] + b"\0" * 200 + whole[240:], whole[:3], whole[:5]):
        with pytest.raises(TraceError) as error:
            trace_in(tmp_path, broken)
        assert "is cut off or damaged; fetch it again" in str(error.value) or "begins no known" in str(
            error.value
        )
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_an_empty_file_says_so(tmp_path: Path, pack) -> None:
    for data in (b"", b"\n\r\n  \n", b"\xef\xbb\xbf"):
        with pytest.raises(TraceError, match="the trace is empty; give one with at least one request"):
            trace_in(tmp_path, pack(data))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_no_file_unpacks_beyond_the_limit(tmp_path: Path, pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(packed, "CHUNK_BYTES", 1 << 16)
    with pytest.raises(TraceError, match="longer than 1,048,576 bytes; split the trace"):
        trace_in(tmp_path, pack(b" " * (1 << 21)))
    bomb = pack(b"\n" * (1 << 26))
    if pack is not bytes:
        assert len(packed.unpacked(bomb, 1 << 20)) <= (1 << 20) + (1 << 16)


def test_what_is_no_trace_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="trace:2: 'hello' begins no known trace format; known are Mooncake"):
        trace_in(tmp_path, b"\nhello\n")
