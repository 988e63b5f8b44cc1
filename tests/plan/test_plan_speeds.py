"""How fast tiers and engines are, by hand from the scenario's parts."""

from decimal import Decimal

import pytest

from kvtide_operator.plan.modelled_speeds import speeds_of
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.profiles import find_profile
from kvtide_operator.simulate.engine.step_times import prefill_chunk_s
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import Ladder, Price, Rung
from kvtide_operator.simulate.scenario import Scenario, SsdClass

GIB = 1 << 30


@pytest.fixture
def scenario(trace_of):
    price = Price("USD", Ladder("capacity", (Rung(0.0, Decimal("0.001")),)))
    disk = Bandwidth(100e6, per_gib=1e6, ceiling=400e6)
    return Scenario(
        trace=trace_of([1, 2], [1, 3]),
        profile=find_profile("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", "VLLM", None),
        kv_bytes_per_token=131_072,
        dram_price=price,
        gpu_hour=2.5,
        ssd_classes={"disk": SsdClass(price, MediumSpeed(disk, disk, latency_s=0.001))},
        dram_compression=2.0,
        load_bytes_s=10e9,
        chunk_tokens=8192,
    )


def test_speeds_by_hand(scenario):
    speeds = speeds_of(scenario, Configuration(GIB, 60.0, "disk", volumes=2), 200 * GIB)
    # A block of 512 tokens is 64 MiB, half of that in DRAM; two volumes of 100 GiB read 200 MB/s each.
    dram_s = 32 * 2**20 / 10e9
    ssd_s = 0.001 + 64 * 2**20 / 400e6 + dram_s
    assert speeds.dram_tokens_per_s == pytest.approx(512 / dram_s)
    assert speeds.ssd_tokens_per_s == pytest.approx(512 / ssd_s)
    assert speeds.kv_bytes_per_token == 65_536
    chunk_s = prefill_chunk_s(scenario.profile.tables, 8192.0, 0.0)
    assert speeds.prefill_tokens_per_s == pytest.approx(8192 / chunk_s)
    assert 10_000 < speeds.prefill_tokens_per_s < 200_000


def test_without_an_ssd_it_has_no_speed(scenario):
    assert speeds_of(scenario, Configuration(GIB), 0).ssd_tokens_per_s is None
    assert speeds_of(scenario, Configuration(GIB, 60.0, "disk"), 0).ssd_tokens_per_s is None
