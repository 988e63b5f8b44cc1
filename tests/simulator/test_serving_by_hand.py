"""Small workloads whose times were worked out on paper: 1 ms a token, 100 tokens a block."""

import pytest

from kvtide_operator.simulate import evaluator
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator

ROOMY = 1_000_000


def test_three_requests_share_steps_and_a_prefix(make_trace, make_scenario):
    # 0.0: A prefills 200 tokens until 0.2, when B, which came at 0.1, finds both blocks on the GPU: its last
    # token and A's second one share a step until 0.202, A's third follows until 0.203. C computes a block.
    trace = make_trace([(0.0, 200, 3, [0, 1]), (0.1, 200, 1, [0, 1]), (1.0, 300, 1, [0, 1, 2])])
    result = Evaluator(make_scenario(trace, gpu_cache_bytes=ROOMY)).coupled(Configuration(0))
    assert (result.device_hit_blocks, result.dram_hit_blocks, result.blocks_requested) == (4, 0, 7)
    assert result.prefix_hit_ratio == pytest.approx(4 / 7)
    assert result.node_hit_ratio == 0.0
    assert result.ttft_mean_s == pytest.approx((0.2 + 0.102 + 0.1) / 3)
    assert result.ttft_p50_s == pytest.approx(0.102)
    assert result.makespan_s == pytest.approx(1.1)
    assert result.throughput_tok_s == pytest.approx(5 / 1.1)
    assert result.stable


def test_a_load_overlaps_with_computing_but_for_the_first_of_four_layers(make_trace, make_scenario):
    # B loads two blocks of 1,000 bytes at 10,000 bytes/s: 0.2 s beside 1 ms of computing, and 0.05 s before.
    trace = make_trace([(0.0, 200, 1, [0, 1]), (1.0, 200, 1, [0, 1])])
    result = Evaluator(make_scenario(trace, load_bytes_s=10_000.0)).coupled(Configuration(ROOMY))
    assert result.dram_hit_blocks == 2
    assert result.dram_hit_bytes == 2000
    assert result.ttft_mean_s == pytest.approx((0.2 + 0.25) / 2)


def test_a_long_prompt_is_prefilled_in_chunks_beside_those_that_decode(make_trace, make_scenario):
    # A decodes from 0.1 on. B's 2,000 tokens go in two chunks of 999 and one of 2, each with a token of A.
    trace = make_trace([(0.0, 100, 100, []), (0.1, 2000, 1, [])])
    result = Evaluator(make_scenario(trace)).coupled(Configuration(0))
    assert result.ttft_mean_s == pytest.approx((0.1 + 2.003) / 2)
    # A has 4 tokens at 2.103, 96 to go.
    assert result.makespan_s == pytest.approx(2.103 + 0.096)


def test_arrivals_cut_a_run_of_decoding_steps_at_the_next_boundary(make_trace, make_scenario):
    # A's steps end at 0.1, 0.101, ...; B comes at 0.1204 and is looked at from 0.121 on.
    trace = make_trace([(0.0, 100, 100, []), (0.1204, 50, 1, [])])
    result = Evaluator(make_scenario(trace)).coupled(Configuration(0))
    assert result.ttft_mean_s == pytest.approx((0.1 + 0.121 + 0.051 - 0.1204) / 2)


def test_kv_room_bounds_the_batch(make_trace, make_scenario, make_profile):
    # 150 tokens fit once: B waits until A has left at 0.149.
    trace = make_trace([(0.0, 100, 50, []), (0.0, 100, 50, [])])
    profile = make_profile(kv_tokens=299)
    result = Evaluator(make_scenario(trace, profile=profile)).coupled(Configuration(0))
    assert result.ttft_mean_s == pytest.approx((0.1 + 0.249) / 2)


def test_a_request_that_fits_no_engine_is_refused_and_misses(make_trace, make_scenario, make_profile):
    trace = make_trace([(0.0, 200, 1, [0, 1]), (1.0, 900, 1, [0, 1, 2]), (2.0, 200, 1, [0, 1])])
    scenario = make_scenario(trace, profile=make_profile(kv_tokens=300))
    result = Evaluator(scenario).evaluate(Configuration(ROOMY))
    assert result.refused_requests == 1
    assert result.blocks_requested == 7
    assert result.dram_hit_blocks == 2


@pytest.mark.parametrize(
    ("reload", "hits", "ttft_s"),
    [
        # C waits from 0.25 to 0.7 for B's prefill; a block takes 0.2 s to read: two are there.
        ("queueing", 2, 0.45 + 0.2),
        # Reading 4 blocks takes 0.8 s from 0.7 on, computing them 0.4 s: they are computed.
        ("async", 0, 0.45 + 0.4),
    ],
)
def test_what_a_slow_ssd_is_good_for(make_trace, make_scenario, make_ssd, reload, hits, ttft_s):
    prompt = [0, 1, 2, 3]
    trace = make_trace([(0.0, 400, 1, prompt), (100.2, 500, 1, [9]), (100.25, 400, 1, prompt)])
    scenario = make_scenario(trace, ssd_classes={"slow": make_ssd(5000.0)}, reload=reload)
    result = Evaluator(scenario).evaluate(Configuration(0, 1000.0, "slow"))
    assert result.ssd_hit_blocks == hits
    assert result.ssd_hit_bytes == hits * 1000
    assert result.ttft_mean_s == pytest.approx((0.4 + 0.5 + ttft_s) / 3)


def test_an_asynchronous_read_lets_others_go_first(make_trace, make_scenario, make_ssd):
    # B reads 4 blocks from 100 until 100.08; C, which came with it, computes meanwhile until 100.3. Then B's
    # last token takes a step.
    prompt = [0, 1, 2, 3]
    trace = make_trace([(0.0, 400, 1, prompt), (100.0, 400, 1, prompt), (100.0, 300, 1, [7, 8, 9])])
    scenario = make_scenario(trace, ssd_classes={"ssd": make_ssd(50_000.0)})
    result = Evaluator(scenario).evaluate(Configuration(0, 1000.0, "ssd"))
    assert result.ssd_hit_blocks == 4
    assert result.ttft_mean_s == pytest.approx((0.4 + 0.301 + 0.3) / 3)


def test_what_the_write_queue_has_no_room_for_is_dropped(make_trace, make_scenario, make_ssd, monkeypatch):
    monkeypatch.setattr(evaluator, "WRITE_QUEUE_BYTES", 2000)
    # Five blocks are displaced at once, two fit the queue; a read of them later finds only those two.
    prompt = [0, 1, 2, 3, 4]
    trace = make_trace([(0.0, 500, 1, prompt), (100.0, 500, 1, prompt)])
    scenario = make_scenario(trace, ssd_classes={"ssd": make_ssd(50_000.0)})
    result = Evaluator(scenario).evaluate(Configuration(0, 1000.0, "ssd"))
    assert result.ssd_hit_blocks == 2
    assert result.dropped_write_bytes == 3000 + 1000  # of the three that B computed, two fit again
    assert result.ssd_written_bytes == 4000


def test_storage_and_gpus_are_paid_apart(make_trace, make_scenario):
    gib = 1 << 30
    trace = make_trace([(0.0, 100, 1, [0]), (1.0, 100, 1, [0])])
    result = Evaluator(make_scenario(trace)).evaluate(Configuration(8 * gib, instances=2))
    assert result.storage_cost_per_hour == pytest.approx(8.0)
    assert result.cost_per_hour == pytest.approx(8.0 + 3.0 * 2 * 2)
