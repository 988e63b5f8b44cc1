"""An analytic stand-in for the simulator: known shapes, no trace, microseconds a call."""

from dataclasses import dataclass
from math import exp

import numpy as np
import pytest

from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.workload.trace import Trace, renumber

GIB = 1 << 30
GPU_PER_HOUR = 20.0
CLASS_SPEED = {"fast": 1.0, "slow": 0.8}
CLASS_PRICE = {"fast": 0.0006, "slow": 0.0003}


@dataclass(frozen=True)
class Analytic:
    prefix_hit_ratio: float = 0.0
    ttft_mean_s: float = 1.0
    ttft_p50_s: float = 1.0
    ttft_p99_s: float = 3.0
    throughput_tok_s: float = 100.0
    storage_cost_per_hour: float = 0.0
    cost_per_hour: float = GPU_PER_HOUR
    stable: bool = True
    endurance_used: float | None = None


def analytic(configuration: Configuration) -> Analytic:
    """Hits saturate in DRAM and in TTL, a queue like M/M/1 makes latency of them."""
    assert isinstance(configuration.ttl_s, float)
    dram_gib = configuration.dram_bytes / GIB
    in_dram = 0.35 * (1 - exp(-dram_gib / 900))
    on_ssd = (0.36 - in_dram) * (1 - exp(-configuration.ttl_s / 500))
    on_ssd *= CLASS_SPEED[configuration.tier_class] if configuration.tier_class else 0.0
    load = 1.15 * (1 - in_dram - 0.9 * on_ssd)
    ssd_gib = 2.0 * configuration.ttl_s if configuration.tier_class else 0.0
    storage = 0.004 * dram_gib + CLASS_PRICE.get(configuration.tier_class or "", 0.0) * ssd_gib
    service_s = 0.8 * (1 - in_dram - 0.8 * on_ssd)
    wait_s = service_s / (1 - load) if load < 1 else 1000.0 * load
    return Analytic(
        prefix_hit_ratio=in_dram + on_ssd,
        ttft_mean_s=service_s + wait_s,
        ttft_p50_s=service_s + 0.7 * wait_s,
        ttft_p99_s=service_s + 4.6 * wait_s,
        throughput_tok_s=1000.0 * min(1.0, 1 / load),
        storage_cost_per_hour=storage,
        cost_per_hour=GPU_PER_HOUR + storage,
        stable=load < 0.99,
    )


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(dram_min_bytes=0, dram_max_bytes=4096 * GIB, tier_classes=("fast",))


@pytest.fixture
def bounds() -> Bounds:
    return Bounds(
        cost_per_hour=(GPU_PER_HOUR, GPU_PER_HOUR + 0.004 * 4096 + 0.0006 * 2 * 3600),
        ttft_s=(0.5, 8.0),
        throughput_tok_s=1000.0,
    )


@pytest.fixture(name="analytic")
def analytic_evaluator():
    return analytic


@pytest.fixture
def outcome():
    """Makes an outcome from what a test cares for."""
    return Analytic


def trace_from(*rows: list[int]) -> Trace:
    """One request a second, asking for the blocks of each row."""
    blocks, ids = renumber(np.array([block for row in rows for block in row], dtype=np.int64))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Trace(
        arrival_s=np.arange(len(rows), dtype=np.float64),
        input_tokens=(lengths * 512).astype(np.int32),
        output_tokens=np.ones(len(rows), dtype=np.int32),
        block_start=np.concatenate([[0], np.cumsum(lengths)]),
        blocks=blocks,
        block_ids=ids,
        weight=np.ones(len(rows)),
        block_tokens=512,
    )


@pytest.fixture(scope="session")
def trace_of():
    """Makes a trace from the blocks of each request."""
    return trace_from
