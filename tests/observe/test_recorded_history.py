"""A recorded history: what was written is read back, whole periods or parts, and damage is said."""

import io
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.history import recorded
from kvtide_operator.history.recorded import HistoryError, RecordedHistory, Span
from kvtide_operator.workload.trace import Trace, renumber

MONDAY_S = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
HOUR_S = 3600.0
fresh = count()

Request = tuple[float, int, int, list[int]]
"""Unix seconds, input tokens, output tokens, block ids."""


def trace_of(requests: list[Request], block_tokens=512, observed_at="engine") -> Trace:
    blocks, ids = renumber(np.array([b for _, _, _, row in requests for b in row], dtype=np.int64))
    times = np.array([r[0] for r in requests], dtype=np.float64)
    return Trace(
        arrival_s=times - (times[0] if len(times) else 0),
        input_tokens=np.array([r[1] for r in requests], dtype=np.int32),
        output_tokens=np.array([r[2] for r in requests], dtype=np.int32),
        block_start=np.cumsum([0, *(len(r[3]) for r in requests)]),
        blocks=blocks,
        block_ids=ids,
        weight=np.ones(len(requests)),
        block_tokens=block_tokens,
        observed_at=observed_at,
        started_at_s=float(times[0]) if len(times) else 0.0,
    )


def requests_of(trace: Trace) -> list[Request]:
    return [
        (
            round(trace.started_at_s + float(trace.arrival_s[i]), 3),
            int(trace.input_tokens[i]),
            int(trace.output_tokens[i]),
            trace.block_ids[trace.blocks_of(i)].tolist(),
        )
        for i in range(trace.requests)
    ]


def hour(n: int, *minutes: float, ids=(7, 8)) -> list[Request]:
    return [(MONDAY_S + n * HOUR_S + 60 * minute, 900, 50, list(ids)) for minute in minutes]


def write(history: RecordedHistory, n: int, requests: list[Request], keep_s=float("inf"), **kind) -> None:
    start_s = MONDAY_S + n * HOUR_S
    history.write(trace_of(requests, **kind), start_s, start_s + HOUR_S, keep_s)


@pytest.fixture(params=["file", "memory", "path"])
def url(request, tmp_path):
    if request.param == "memory":
        return f"memory://history{next(fresh)}/chat"
    return f"{'file://' if request.param == 'file' else ''}{tmp_path}/history/chat"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "history"


def test_what_was_written_is_read_back_across_periods(url):
    history = RecordedHistory(url)
    write(history, 0, hour(0, 1, 30.5))
    write(history, 1, hour(1, 0, 59, ids=(7, 9)))
    trace = RecordedHistory(url).read(MONDAY_S + 600, MONDAY_S + HOUR_S + 600)
    assert requests_of(trace) == [*hour(0, 30.5), *hour(1, 0, ids=(7, 9))]
    assert (trace.block_tokens, trace.observed_at, trace.notes) == (512, "engine", ())
    assert history.span() == Span(MONDAY_S, MONDAY_S + 2 * HOUR_S)


requests = st.tuples(
    st.integers(0, 3599_999).map(lambda ms: ms / 1000),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 2**53 - 1), max_size=4),
)


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(st.integers(0, 5), st.lists(requests, max_size=4), min_size=1),
    st.integers(0, 6 * 3600),
    st.integers(1, 6 * 3600),
)
def test_any_range_holds_exactly_its_requests(hours, begin, length):
    history = RecordedHistory(f"memory://property{next(fresh)}")
    told: list[Request] = []
    for n, drawn in sorted(hours.items()):
        rows = sorted((round(MONDAY_S + n * HOUR_S + at, 3), a, b, ids) for at, a, b, ids in drawn)
        write(history, n, rows)
        told += rows
    start_s, end_s = MONDAY_S + begin, MONDAY_S + begin + length
    expected = [row for row in told if start_s <= row[0] < end_s]
    if expected:
        assert requests_of(history.read(start_s, end_s)) == expected
    else:
        with pytest.raises(HistoryError, match="there are no requests"):
            history.read(start_s, end_s)


def test_a_period_is_a_parquet_file_with_the_columns_of_a_node_s_trace(folder):
    write(RecordedHistory(str(folder)), 13, hour(13, 2))
    (file,) = folder.iterdir()
    assert file.name == "20261116T130000Z.parquet"
    assert pq.read_table(file).to_pylist() == [
        {
            "timestamp": (MONDAY_S + 13 * HOUR_S + 120) * 1e3,
            "input_length": 900,
            "output_length": 50,
            "hash_ids": [7, 8],
            "weight": 1.0,
            "observed_at": "engine",
        }
    ]


def test_a_history_is_only_added_to(url):
    history = RecordedHistory(url)
    write(history, 2, hour(2, 5))
    for n in (1, 2):
        with pytest.raises(HistoryError, match="add only what comes after"):
            write(history, n, hour(n, 6))
    assert requests_of(history.read(MONDAY_S, MONDAY_S + 9 * HOUR_S)) == hour(2, 5)


def test_old_periods_are_forgotten(url):
    history = RecordedHistory(url)
    for n in range(6):
        write(history, n, hour(n, 5), keep_s=3 * HOUR_S)
    assert history.span() == Span(MONDAY_S + 3 * HOUR_S, MONDAY_S + 6 * HOUR_S)
    files, root = fsspec.core.url_to_fs(url)
    assert len(files.ls(root)) == 3


def test_a_silent_hour_is_known_and_a_missing_one_is_said(url):
    history = RecordedHistory(url)
    write(history, 0, hour(0, 5))
    write(history, 1, [])
    write(history, 3, hour(3, 5))
    assert history.read(MONDAY_S, MONDAY_S + 2 * HOUR_S).notes == ()
    (note,) = history.read(MONDAY_S, MONDAY_S + 4 * HOUR_S).notes
    assert note == "the history lacks 3,600 s of the 14,400 s looked at"


def test_what_a_writer_that_died_left_is_neither_read_nor_kept(folder):
    history = RecordedHistory(str(folder))
    write(history, 0, hour(0, 5))
    (folder / "20261116T010000Z.parquet.part").write_bytes(b"half a per")
    (folder / "notes.txt").write_text("not a period")
    assert requests_of(history.read(MONDAY_S, MONDAY_S + 2 * HOUR_S)) == hour(0, 5)
    write(history, 1, hour(1, 5))
    assert sorted(file.name for file in folder.iterdir()) == [
        "20261116T000000Z.parquet",
        "20261116T010000Z.parquet",
        "notes.txt",
    ]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 0xFF]) + data[61:]


def other_columns(data: bytes) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"timestamp": [1.0]}), file)
    return file.getvalue()


def backwards(data: bytes) -> bytes:
    file, rows = io.BytesIO(), pq.read_table(io.BytesIO(data))
    pq.write_table(rows.take([1, 0]), file)
    return file.getvalue()


@pytest.mark.parametrize("damage", [truncated, flipped, other_columns, backwards, lambda _: b""])
def test_a_damaged_period_is_left_out_and_said(folder, damage):
    history = RecordedHistory(str(folder))
    for n in range(3):
        write(history, n, hour(n, 5, 6))
    file = folder / "20261116T010000Z.parquet"
    file.write_bytes(damage(file.read_bytes()))
    trace = history.read(MONDAY_S, MONDAY_S + 3 * HOUR_S)
    assert requests_of(trace) == [*hour(0, 5, 6), *hour(2, 5, 6)]
    assert trace.notes[0].startswith("20261116T010000Z.parquet is damaged and left out: ")
    assert trace.notes[1] == "the history lacks 3,600 s of the 10,800 s looked at"


def test_a_damaged_last_period_does_not_stop_the_next(folder):
    history = RecordedHistory(str(folder))
    for n in range(2):
        write(history, n, hour(n, 5))
    (folder / "20261116T010000Z.parquet").write_bytes(b"PAR1")
    assert history.span() == Span(MONDAY_S, MONDAY_S + HOUR_S)
    with pytest.raises(HistoryError, match="add only what comes after"):
        write(history, 1, hour(1, 6))
    write(history, 2, hour(2, 5))
    assert requests_of(history.read(MONDAY_S, MONDAY_S + 3 * HOUR_S)) == [*hour(0, 5), *hour(2, 5)]


def test_what_nodes_inferred_gives_way_to_what_engines_told(url):
    history = RecordedHistory(url)
    write(history, 0, hour(0, 5), observed_at="node")
    assert history.read(MONDAY_S, MONDAY_S + HOUR_S).observed_at == "node"
    write(history, 1, hour(1, 5))
    trace = history.read(MONDAY_S, MONDAY_S + 2 * HOUR_S)
    assert requests_of(trace) == hour(1, 5)
    assert trace.observed_at == "engine"
    assert trace.notes == ("1 requests that nodes inferred are left out, as engines told theirs",)


def test_blocks_of_two_sizes_do_not_make_one_trace(url):
    history = RecordedHistory(url)
    write(history, 0, hour(0, 5), block_tokens=512)
    write(history, 1, hour(1, 5), block_tokens=256)
    with pytest.raises(HistoryError, match="blocks of 256 and of 512 tokens"):
        history.read(MONDAY_S, MONDAY_S + 2 * HOUR_S)
    assert history.read(MONDAY_S + HOUR_S, MONDAY_S + 2 * HOUR_S).block_tokens == 256


@pytest.mark.parametrize("limit", ["MAX_READ_BYTES", "MAX_READ_BLOCKS"])
def test_a_look_beyond_the_limits_is_refused(url, monkeypatch, limit):
    history = RecordedHistory(url)
    write(history, 0, hour(0, *range(60)))
    monkeypatch.setattr(recorded, limit, 100)
    with pytest.raises(HistoryError, match=r"more than 100.*look at less"):
        history.read(MONDAY_S, MONDAY_S + HOUR_S)


def test_a_storage_that_refuses_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(HistoryError, match=r"file/history: (Not a directory|File exists)"):
        write(RecordedHistory(f"{tmp_path}/file/history"), 0, hour(0, 5))
    with pytest.raises(HistoryError, match="Protocol not known: carrier-pigeon"):
        RecordedHistory("carrier-pigeon://loft")


def test_nothing_recorded_is_no_span(url):
    assert RecordedHistory(url).span() is None
