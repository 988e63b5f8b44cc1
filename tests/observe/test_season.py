"""Windows become periods of history, and a season later they are what the loop plans on."""

from pathlib import Path

import numpy as np
import pytest

from kvtide_operator.history.recorded import HistoryError, RecordedHistory
from kvtide_operator.history.season import Season
from kvtide_operator.workload.trace import Trace

T0 = 1_800_000_000  # a multiple of 100


def seen_at(*arrivals_s: float) -> Trace:
    """One request of one block at each of these seconds after T0, each with a block of its own."""
    count = len(arrivals_s)
    arrival = np.array(arrivals_s, dtype=np.float64)
    return Trace(
        arrival_s=arrival - arrival[0],
        input_tokens=np.full(count, 512, dtype=np.int32),
        output_tokens=np.ones(count, dtype=np.int32),
        block_start=np.arange(count + 1),
        blocks=np.arange(count, dtype=np.int32),
        block_ids=np.array([int(10 * at) for at in arrivals_s], dtype=np.int64),
        weight=np.ones(count),
        block_tokens=512,
        started_at_s=T0 + float(arrival[0]),
    )


def season(folder: Path, **fields: float) -> Season:
    options = {"season_s": 300.0, "keep_s": 1000.0} | fields
    return Season(RecordedHistory(str(folder)), period_s=100, **options)


def test_only_whole_watched_periods_are_kept(tmp_path: Path) -> None:
    keeper = season(tmp_path)
    keeper.keep(None, T0 + 40)  # begins in the middle of a period, which is therefore never kept
    keeper.keep(seen_at(50, 130, 170), T0 + 199)
    assert RecordedHistory(str(tmp_path)).span() is None
    keeper.keep(seen_at(50, 130, 170, 205), T0 + 210)
    span = RecordedHistory(str(tmp_path)).span()
    assert span is not None
    assert (span.start_s, span.end_s) == (T0 + 100, T0 + 200)
    kept = RecordedHistory(str(tmp_path)).read(T0, T0 + 300)
    assert kept.block_ids.tolist() == [1300, 1700]


def test_a_period_without_requests_is_kept_as_such(tmp_path: Path) -> None:
    keeper = season(tmp_path)
    keeper.keep(None, T0)
    keeper.keep(seen_at(50, 250), T0 + 301)
    span = RecordedHistory(str(tmp_path)).span()
    assert span is not None
    assert span.end_s == T0 + 300


def test_the_slot_is_the_period_of_one_season_ago(tmp_path: Path) -> None:
    keeper = season(tmp_path)
    keeper.keep(None, T0)
    assert keeper.slot(T0 + 50) is None
    keeper.keep(seen_at(10, 20, 150, 260), T0 + 320)
    slot = keeper.slot(T0 + 420)
    assert slot is not None
    assert slot.block_ids.tolist() == [1500]
    assert keeper.slot(T0 + 499) is slot
    assert season(tmp_path, season_s=700.0).slot(T0 + 420) is None


def test_a_storage_that_refuses_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    keeper = season(blocked)
    keeper.keep(None, T0)
    with pytest.raises(HistoryError, match="file"):
        keeper.keep(seen_at(10), T0 + 150)
