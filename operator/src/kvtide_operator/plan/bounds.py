"""The scale of the objectives: known from the trace, the engine's profile and the prices alone."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.plan.hypervolume import Bounds
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.simulate.engine.step_times import StepTables, prefill_s
from kvtide_operator.simulate.scenario import Scenario, SsdClass
from kvtide_operator.workload.trace import Trace

LONGEST_TTFT = 10
"""Upper bound of the TTFT in units of a prefill on an idle engine without any cache."""


def bounds_of(scenario: Scenario, space: SearchSpace) -> Bounds:
    """Bounds that no search can move.

    Cost: the least DRAM and no SSD; the most DRAM and, of the dearest class, as much SSD as all blocks of the
    trace would take. TTFT: zero load with an infinite cache; `LONGEST_TTFT` times zero load without one.
    Throughput: none; the output tokens asked for over the span of the arrivals.
    """
    trace = scenario.trace
    gpus_per_hour = scenario.gpu_hour * scenario.profile.gpus * space.instances
    every_block = trace.unique_blocks * scenario.ssd_block_bytes * scenario.ssd_headroom
    ssd_bytes = min(every_block, scenario.ssd_max_bytes or every_block)
    ssd_per_hour = max(
        (_ssd_per_hour(scenario.ssd_classes[name], ssd_bytes, space) for name in space.tier_classes),
        default=0.0,
    )
    least_per_hour = scenario.dram_price.per_hour(space.dram_min_bytes)
    most_per_hour = scenario.dram_price.per_hour(space.dram_max_bytes) + ssd_per_hour
    if (paid := scenario.tiers_per_hour) is not None:
        least_per_hour = paid(space.dram_min_bytes, 0, None)
        most_per_hour = max(paid(space.dram_max_bytes, int(ssd_bytes), name) for name in space.media)
    cached_s, uncached_s = zero_load_ttft_s(trace, scenario.profile.tables, scenario.chunk_tokens)
    return Bounds(
        cost_per_hour=(
            gpus_per_hour + least_per_hour,
            gpus_per_hour + most_per_hour,
        ),
        ttft_s=(cached_s, LONGEST_TTFT * uncached_s),
        throughput_tok_s=float(trace.output_tokens.sum()) / trace.span_s if trace.span_s else 0.0,
    )


def _ssd_per_hour(tier: SsdClass, ssd_bytes: float, space: SearchSpace) -> float:
    """Price of the SSD, or of the largest one sold where that is less."""
    sold = tier.sizes.max_bytes
    paid = tier.sizes.paid_bytes(
        ssd_bytes if sold is None else min(ssd_bytes, sold * space.volumes), space.volumes
    )
    return tier.price.per_hour(paid, volumes=space.volumes)


def zero_load_ttft_s(trace: Trace, tables: StepTables, chunk_tokens: int) -> tuple[float, float]:
    """Mean seconds to prefill a request on an idle engine: with an infinite cache, and without one.

    The infinite cache holds every block of earlier requests and loads it in no time. At least one token of a
    prompt is computed.

    Args:
        trace: the requests.
        tables: step times.
        chunk_tokens: tokens that a step prefills at most.
    """
    if trace.requests == 0:
        return 0.0, 0.0
    return _mean_ttft_s(
        trace.block_start,
        trace.blocks,
        trace.input_tokens.astype(np.int64),
        trace.unique_blocks,
        trace.block_tokens,
        tables,
        chunk_tokens,
    )


@njit(cache=True)
def _mean_ttft_s(
    block_start: NDArray[np.int64],
    blocks: NDArray[np.int32],
    input_tokens: NDArray[np.int64],
    unique_blocks: int,
    block_tokens: int,
    tables: StepTables,
    chunk_tokens: int,
) -> tuple[float, float]:
    seen = np.zeros(unique_blocks, dtype=np.bool_)
    cached_s = 0.0
    uncached_s = 0.0
    for request in range(len(input_tokens)):
        hits = 0
        unbroken = True
        for at in range(block_start[request], block_start[request + 1]):
            unbroken = unbroken and seen[blocks[at]]
            hits += unbroken
            seen[blocks[at]] = True
        tokens = max(input_tokens[request], 1)
        cached = min(hits * block_tokens, tokens - 1)
        cached_s += prefill_s(tables, cached, tokens, chunk_tokens)
        uncached_s += prefill_s(tables, 0, tokens, chunk_tokens)
    return cached_s / len(input_tokens), uncached_s / len(input_tokens)
