"""Plans and frontiers made by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from kvtide_operator.api.base import Metadata
from kvtide_operator.api.cacheplan import CachePlan, CachePlanSpec, CachePlanStatus, CacheRef, Phase, Workload
from kvtide_operator.api.point import Point
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Demand, Plan
from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.simulate.configuration import Configuration

GIB = 1 << 30


@dataclass(frozen=True)
class Simulated:
    prefix_hit_ratio: float = 0.31234
    ttft_mean_s: float = 0.123456
    ttft_p50_s: float = 0.1
    ttft_p99_s: float = 1.23456
    throughput_tok_s: float = 12345.6
    storage_cost_per_hour: float = 1.23456
    cost_per_hour: float = 3.73456
    ssd_bytes: int = 0
    stable: bool = True


def candidate(dram_gib: int, *, ttl_s=0.0, tier_class=None, **outcome) -> Candidate:
    outcome.setdefault("cost_per_hour", 2.5 + dram_gib / 1000)
    return Candidate(Configuration(dram_gib * GIB, ttl_s, tier_class), Simulated(**outcome))


def plan_from(frontier, chosen, *, gain=0.2) -> Plan:
    return Plan(tuple(frontier), chosen, True, candidate(1), gain, 99, "it costs less")


DEMAND = Demand(100, 1000, 3600.4, False, HitCurve(np.array([1, 2]), np.array([0.1, 0.2])), None)


def point(dram_gib: float, *, ssd_gib: float | None = None, tier_class: str | None = None) -> Point:
    return Point(
        dram=int(dram_gib * GIB),
        ssd=None if ssd_gib is None else int(ssd_gib * GIB),
        class_name=tier_class,
        ttl=None if ssd_gib is None else 60.0,
        tiers_per_hour=1.0,
        cost_per_hour=2.0,
        throughput=100.0,
        hit_ratio=0.3,
        stable=True,
    )


@pytest.fixture
def make():
    """A CachePlan: named after its time, from ``baseline_gib`` to ``dram_gib``."""

    def made(
        created_s: float,
        dram_gib: float = 128,
        *,
        phase: Phase | None = None,
        approved: bool = False,
        valid_until_s: float = 1e9,
        baseline_gib: float = 64,
    ) -> CachePlan:
        return CachePlan(
            metadata=Metadata(name=f"p{created_s:g}", creation_timestamp=created_s, generation=1),
            spec=CachePlanSpec(
                cache_ref=CacheRef(name="chat"),
                valid_until=valid_until_s,
                workload=Workload(window=3600.0, requests=1, blocks=1, hash="x"),
                currency="USD",
                frontier=(point(dram_gib),),
                chosen=0,
                baseline=point(baseline_gib),
                gain=0.2,
                why="it costs less",
                approved=approved,
            ),
            status=CachePlanStatus(phase=phase) if phase else None,
        )

    return made
