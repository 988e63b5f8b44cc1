"""Reuse statistics against a trace worked by hand and the published ones of Mooncake's trace."""

from pathlib import Path

import numpy as np
import pytest

from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.reuse import measure_reuse
from kvtide_operator.workload.trace import Trace

MOONCAKE = Path(__file__).parents[3] / "shared" / "traces" / "mooncake_conversation.jsonl"


def test_a_trace_worked_by_hand() -> None:
    # 0 s: A B · 10 s: A C · 30 s: A B, which counts twice
    trace = Trace(
        arrival_s=np.array([0.0, 10.0, 30.0]),
        input_tokens=np.full(3, 32, dtype=np.int32),
        output_tokens=np.zeros(3, dtype=np.int32),
        block_start=np.array([0, 2, 4, 6]),
        blocks=np.array([0, 1, 0, 2, 0, 1], dtype=np.int32),
        block_ids=np.array([5, 6, 7]),
        weight=np.array([1.0, 1.0, 2.0]),
        block_tokens=16,
    )
    reuse = measure_reuse(trace)
    assert sorted(reuse.gap_s.tolist()) == [10.0, 20.0, 30.0]
    assert reuse.lifespan_s.tolist() == [30.0, 30.0, 0.0]
    assert reuse.reuses.tolist() == [2, 1, 0]
    assert reuse.infinite_hit_ratio == (1 + 2 * 2) / (2 + 2 + 2 * 2)
    assert reuse.top_share(0.5) == pytest.approx(1 / 3)
    assert reuse.top_share(0.9) == pytest.approx(2 / 3)


def test_a_block_behind_a_new_one_is_no_hit() -> None:
    trace = Trace(
        arrival_s=np.array([0.0, 1.0]),
        input_tokens=np.full(2, 32, dtype=np.int32),
        output_tokens=np.zeros(2, dtype=np.int32),
        block_start=np.array([0, 2, 4]),
        blocks=np.array([0, 1, 2, 1], dtype=np.int32),
        block_ids=np.array([5, 6, 7]),
        weight=np.ones(2),
        block_tokens=16,
    )
    assert measure_reuse(trace).infinite_hit_ratio == 0.0


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"{MOONCAKE.name} is not beside the repository")
def test_the_published_figures_of_mooncakes_trace() -> None:
    reuse = measure_reuse(read_trace(MOONCAKE))
    assert reuse.infinite_hit_ratio == pytest.approx(0.3664, abs=5e-5)
    assert np.percentile(reuse.gap_s, [50, 80, 90, 99]) == pytest.approx([114, 324, 519, 1578], abs=1)
    assert reuse.top_share(0.9) == pytest.approx(0.184, abs=5e-4)
