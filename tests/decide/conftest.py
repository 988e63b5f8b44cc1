"""Situations for the policy: a cache of two tiers, and plans that want what a test says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kvtide_operator.api.status import DecisionStatus, Sizes
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.situation import Situation
from kvtide_operator.decide.target import Target
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Plan
from kvtide_operator.simulate.configuration import Configuration

GI = 1 << 30
NOW_S = 1_700_000_000.0


@dataclass(frozen=True)
class Outcome:
    prefix_hit_ratio: float = 0.5
    ttft_mean_s: float = 1.0
    ttft_p50_s: float = 1.0
    ttft_p99_s: float = 2.0
    throughput_tok_s: float = 100.0
    storage_cost_per_hour: float = 1.0
    cost_per_hour: float = 2.0
    stable: bool = True
    ssd_bytes: int = 0
    endurance_used: float | None = None


def spec_of(
    *,
    ssd: dict[str, Any] | None = None,
    prefer: str = "Cost",
    budget: str | None = None,
    metrics: bool = False,
    **scaling: Any,
) -> TieredCacheSpec:
    tiers: list[dict[str, Any]] = [
        {
            "name": "dram",
            "medium": "DRAM",
            "classes": ["dram"],
            "capacity": {"initial": "128Gi", "min": "64Gi", "max": "1Ti", "step": "8Gi"},
        },
        {
            "name": "ssd",
            "medium": "SSD",
            "classes": ["slow", "fast"],
            "capacity": {"initial": 0, "min": 0, "max": "4Ti", "step": "16Gi"} | (ssd or {}),
            "ttl": {"min": "0s", "max": "1h"},
        },
    ]
    return TieredCacheSpec.model_validate(
        {
            "model": {"name": "m", "kvBytesPerToken": 1024},
            "engine": {"gpuHour": "2", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
            "tiers": tiers,
            "nodes": {"replicas": {"min": 2}},
            "objective": {"prefer": prefer, "budget": {"tiersPerHour": budget} if budget else {}},
            "metrics": {"prometheus": {"url": "http://p:9090"}} if metrics else None,
            "scaling": {"interval": "1m", "maxStep": "25%", "down": {"stabilization": "10m"}} | scaling,
        }
    )


def candidate(
    dram: int, ssd: int = 0, ttl_s: float = 0.0, tier_class: str | None = "slow", **outcome: Any
) -> Candidate:
    """Sizes in GiB."""
    configuration = Configuration(dram * GI, ttl_s, tier_class) if ssd else Configuration(dram * GI)
    return Candidate(configuration, Outcome(ssd_bytes=ssd * GI, **outcome))


def plan_to(
    chosen: Candidate, here: Candidate | None = None, *, gain: float = 0.5, feasible: bool = True
) -> Plan:
    return Plan(
        frontier=(chosen,),
        chosen=chosen,
        feasible=feasible,
        current=here or candidate(128),
        gain=gain,
        evaluations=1,
        why="because",
    )


def target(dram: int, ssd: int = 0, ttl_s: float | None = None) -> Target:
    return Target(dram * GI, ssd * GI, ttl_s)


def decision(
    ago_s: float, action: str, before: Target, after: Target, outcome: str | None = "done"
) -> DecisionStatus:
    def sizes(of: Target) -> Sizes:
        return Sizes(dram=of.dram_bytes, ssd=of.ssd_bytes, ttl=of.ttl_s)

    return DecisionStatus(
        time=NOW_S - ago_s,
        action=action,
        before=sizes(before),
        after=sizes(after),
        reason="r",
        outcome=outcome,
    )


@pytest.fixture
def situation() -> Callable[..., Situation]:
    """A situation in which nothing but the plan has a say, changed by what a test gives."""

    def of(here: Target, chosen: Candidate | None = None, *, gain: float = 0.5, **given: Any) -> Situation:
        spec = given.pop("spec", None) or spec_of()
        given.setdefault("plan", plan_to(chosen, gain=gain) if chosen else None)
        given.setdefault("ssd_class", "slow" if here.ssd_bytes else None)
        return Situation(now_s=NOW_S, spec=spec, here=here, **given)

    return of


@pytest.fixture(scope="session")
def make() -> Any:
    """The builders of this file, for tests."""

    class Make:
        spec = staticmethod(spec_of)
        candidate = staticmethod(candidate)
        plan = staticmethod(plan_to)
        target = staticmethod(target)
        decision = staticmethod(decision)
        now_s = NOW_S

    return Make
