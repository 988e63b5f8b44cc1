"""Plans one DRAM tier: the capacity at which storage and recomputation together cost least."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.api.tieredcache import Capacity
from kvtide_operator.plan.point import Plan, Point
from kvtide_operator.simulate.engine_profile import EngineProfile
from kvtide_operator.simulate.step_times import prefill_chunk_s

MAX_POINTS = 64
"""Capacities evaluated between the bounds: a finer grid moves the choice by less than 2 % of their range."""

CHUNK_TOKENS = 2048
"""Prompt tokens of one prefill step: the default of vLLM's --max-num-batched-tokens when serving."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the workload asks of the cache.

    Attributes:
        hit_ratio_at: prefix hit ratio at a capacity in entries.
        tokens_per_s: prompt tokens a second, cached or not.
        mean_prompt_tokens: of a request.
        bytes_per_entry: what an entry takes in a node, its metadata included.
    """

    hit_ratio_at: Callable[[int], float]
    tokens_per_s: float
    mean_prompt_tokens: float
    bytes_per_entry: float


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost an hour.

    Attributes:
        dram_per_hour: price of a capacity in bytes.
        engine_hour: price of all GPUs of one engine.
        engine: its step times, which say how long a missed token takes.
    """

    dram_per_hour: Callable[[int], float]
    engine_hour: float
    engine: EngineProfile


def plan_dram(demand: Demand, prices: Prices, capacity: Capacity, current_bytes: int) -> Plan:
    """The frontier between the bounds of the tier, and its cheapest point.

    Where two sizes cost the same the smaller one is taken.
    """
    recompute_s_per_token = _recompute_s_per_token(prices.engine, demand.mean_prompt_tokens)

    def evaluate(dram_bytes: int) -> Point:
        hit_ratio = demand.hit_ratio_at(int(dram_bytes / demand.bytes_per_entry))
        engine_s_per_s = demand.tokens_per_s * (1 - hit_ratio) * recompute_s_per_token
        return Point(
            dram_bytes=dram_bytes,
            prefix_hit_ratio=hit_ratio,
            storage_cost_per_hour=prices.dram_per_hour(dram_bytes),
            recompute_cost_per_hour=engine_s_per_s * prices.engine_hour,
        )

    frontier = _non_dominated([evaluate(size) for size in _candidates(capacity)])
    chosen = min(frontier, key=lambda point: (point.cost_per_hour, point.dram_bytes))
    current = evaluate(current_bytes)
    return Plan(frontier, chosen, current, _why(current, chosen))


def _recompute_s_per_token(engine: EngineProfile, prompt_tokens: float) -> float:
    """Seconds that a missed token takes in a prefill step half way into a prompt of mean length."""
    chunk = max(min(prompt_tokens, float(CHUNK_TOKENS)), 1.0)
    cached = max(prompt_tokens - chunk, 0.0) / 2
    return float(prefill_chunk_s(engine.tables, chunk, cached)) / chunk


def _candidates(capacity: Capacity) -> list[int]:
    steps = (capacity.max - capacity.min) // capacity.step
    picked = np.unique(np.linspace(0, steps, min(steps + 1, MAX_POINTS)).round().astype(np.int64))
    sizes = [capacity.min + int(step) * capacity.step for step in picked]
    return sizes if sizes[-1] == capacity.max else [*sizes, capacity.max]


def _non_dominated(points: list[Point]) -> tuple[Point, ...]:
    """Of points in order of capacity, those that hit more than every smaller one."""
    kept = points[:1]
    for point in points[1:]:
        if point.prefix_hit_ratio > kept[-1].prefix_hit_ratio:
            kept.append(point)
    return tuple(kept)


def _why(current: Point, chosen: Point) -> str:
    return (
        f"{format_quantity(chosen.dram_bytes)} hits {chosen.prefix_hit_ratio:.1%} for "
        f"{chosen.cost_per_hour:.2f} an hour; {format_quantity(current.dram_bytes)} hits "
        f"{current.prefix_hit_ratio:.1%} for {current.cost_per_hour:.2f}"
    )
