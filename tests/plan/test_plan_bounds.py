"""The scale of the objectives against the simulator at the ends that it describes."""

from dataclasses import replace
from decimal import Decimal

import pytest

from kvtide_operator.plan.bounds import LONGEST_TTFT, bounds_of
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.profiles import shipped
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import Ladder, Price, Rung
from kvtide_operator.simulate.scenario import Scenario, SsdClass

GIB = 1 << 30
BLOCK = 64 << 20


def price(per_gib):
    return Price("USD", Ladder("capacity", (Rung(0.0, Decimal(per_gib)),)))


@pytest.fixture
def scenario(trace_of):
    """Four requests far apart, the last two of which repeat the first two; DRAM that loads in no time."""
    trace = trace_of([*range(40)], [*range(20), 50], [*range(40)], [*range(20), 50])
    speed = MediumSpeed(Bandwidth(1e9), Bandwidth(1e9))
    return Scenario(
        trace=replace(trace, arrival_s=trace.arrival_s * 1000),
        profile=shipped()["llama-3.1-8b_h100_sxm_vllm"],
        kv_bytes_per_token=BLOCK // 512,
        dram_price=price("0.004"),
        gpu_hour=2.5,
        ssd_classes={"cheap": SsdClass(price("0.001"), speed), "dear": SsdClass(price("0.002"), speed)},
        gpu_cache_bytes=0,
        load_bytes_s=1e18,
    )


SPACE = SearchSpace(dram_min_bytes=0, dram_max_bytes=100 * GIB, tier_classes=("cheap", "dear"), instances=3)


def test_latency_goes_from_an_idle_engine_with_every_block_to_ten_times_one_without(scenario):
    bounds = bounds_of(scenario, SPACE)
    evaluator = Evaluator(scenario)
    without = evaluator.evaluate(Configuration(0)).ttft_mean_s
    everything = evaluator.evaluate(Configuration(100 * GIB)).ttft_mean_s
    assert bounds.ttft_s == pytest.approx((everything, LONGEST_TTFT * without), rel=1e-6)


def test_cost_goes_from_no_storage_to_the_most_dram_and_all_blocks_on_the_dearest_ssd(scenario):
    gpus = 3 * 2.5
    ssd_gib = 41 * BLOCK * scenario.ssd_headroom / GIB
    assert bounds_of(scenario, SPACE).cost_per_hour == pytest.approx((gpus, gpus + 0.4 + 0.002 * ssd_gib))
    capped = replace(scenario, ssd_max_bytes=GIB)
    assert bounds_of(capped, SPACE).cost_per_hour[1] == pytest.approx(gpus + 0.4 + 0.002)
    without = replace(SPACE, tier_classes=())
    assert bounds_of(scenario, without).cost_per_hour[1] == pytest.approx(gpus + 0.4)


def test_throughput_is_at_most_what_is_asked_for(scenario):
    assert bounds_of(scenario, SPACE).throughput_tok_s == pytest.approx(4 / 3000)
    alone = replace(scenario, trace=scenario.trace.between(0, 1), block_group=None)
    assert bounds_of(alone, SPACE).throughput_tok_s == 0.0
