"""Look-ups and loads beside other requests' steps, worked out on paper: 10 ms a token, 100 tokens a block."""

import pytest

from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator

ROOMY = 1_000_000


@pytest.fixture
def ttft_s(make_trace, make_scenario, make_profile):
    """Mean time to first token of requests, with loads of 10,000 bytes/s: 0.1 s a block."""

    def simulate(requests, loading="async", dram_bytes=ROOMY, **fields):
        scenario = make_scenario(
            make_trace(requests),
            profile=make_profile(0.01),
            gpu_cache_bytes=0,
            load_bytes_s=10_000.0,
            loading=loading,
            **fields,
        )
        return Evaluator(scenario).coupled(Configuration(dram_bytes)).ttft_mean_s

    return simulate


def test_an_idle_engine_waits_for_the_look_up_and_for_the_load(ttft_s):
    # Looked up in 1 ms each; the first computes 200 tokens, the second loads two blocks and computes a token.
    requests = [(0.0, 200, 1, [0, 1]), (5.0, 200, 1, [0, 1])]
    assert ttft_s(requests) == pytest.approx((0.001 + 2.0 + 0.001 + 0.2 + 0.01) / 2)


def test_a_busy_engine_notices_either_at_the_end_of_a_step(ttft_s):
    # The second decodes from 12.001 on in steps of 10 ms. The third comes at 12.0045, is seen at 12.011,
    # looked up by 12.012, thus at 12.021, and loaded by 12.321, which may round up to the next step's end.
    # Then five tokens of it share a step with one of the other.
    warm, busy = (0.0, 300, 1, [0, 1, 2]), (10.0, 200, 500, [])
    late = (12.0045, 305, 1, [0, 1, 2, 3])
    others_s = (0.001 + 3.0) + (0.001 + 2.0)
    noticed_s = ttft_s([warm, busy, late]) * 3 - others_s + 12.0045 - 0.06
    assert min(abs(noticed_s - 12.321), abs(noticed_s - 12.331)) < 1e-6


def test_a_miss_waits_for_one_step_only(ttft_s):
    # Seen at 2.011, looked up by 2.021, computed with a token of the other until 2.081.
    busy, late = (0.0, 200, 500, []), (2.0045, 5, 1, [])
    assert ttft_s([busy, late]) * 2 - 2.001 == pytest.approx(2.081 - 2.0045)


def test_blocks_are_there_when_a_step_has_filled_them_for_whoever_is_looked_up_then(ttft_s):
    # The first fills three blocks until 3.001 and the last until 4.001. The second is looked up at 3.001,
    # which is noticed at 4.001: it loads three blocks until 4.301 and computes one.
    requests = [(0.0, 400, 1, [0, 1, 2, 3]), (1.0, 400, 1, [0, 1, 2, 3])]
    assert ttft_s(requests, chunk_tokens=300) == pytest.approx((4.001 + 5.301 - 1.0) / 2)


def test_layered_loads_wait_for_nothing(ttft_s):
    # Two blocks take 0.2 s to load beside 10 ms of computing, before that the first layer, a fourth.
    requests = [(0.0, 200, 1, [0, 1]), (5.0, 200, 1, [0, 1])]
    assert ttft_s(requests, "layered") == pytest.approx((2.0 + 0.25) / 2)
