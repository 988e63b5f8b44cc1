import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.replay.measure import LatencyHistogram, Operation


@given(st.lists(st.floats(2e-6, 90.0), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_quantiles_are_right_within_one_percent(latencies_s: list[float], quantile: float) -> None:
    histogram = LatencyHistogram()
    for latency_s in latencies_s:
        histogram.add(latency_s)
    exact_ms = float(np.quantile(latencies_s, quantile, method="inverted_cdf")) * 1e3
    assert histogram.quantile_ms(quantile) == pytest.approx(exact_ms, rel=0.01)


def test_what_lies_outside_is_counted_at_the_ends() -> None:
    histogram = LatencyHistogram()
    histogram.add(0.0)
    histogram.add(1e9)
    assert histogram.quantile_ms(0.5) == pytest.approx(0.001, rel=0.01)
    assert histogram.quantile_ms(1.0) == pytest.approx(100e3, rel=0.02)


def test_without_a_sample_there_is_no_figure() -> None:
    assert LatencyHistogram().quantile_ms(0.99) is None
    assert Operation().gb_s is None


def test_throughput_counts_overlapping_time_once() -> None:
    operation = Operation()
    for now_s, change in [(0.0, 1), (1.0, 1), (2.0, -1), (3.0, -1), (10.0, 1), (11.0, -1)]:
        operation.begin(now_s) if change > 0 else operation.end(now_s)
    operation.bytes = 8_000_000_000
    assert operation.gb_s == pytest.approx(2.0)  # 8 GB in 0 to 3 s and 10 to 11 s
