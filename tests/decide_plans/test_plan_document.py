"""From a plan to its CachePlan."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.api.cacheplan import CachePlan
from kvtide_operator.decide.plan_document import VALIDITY_S, cache_plan, point_of, target_of, thinned
from kvtide_operator.decide.steps import Target
from kvtide_operator.simulate.cache.hit_curve import HitCurve

from .conftest import DEMAND, GIB, candidate, plan_from


def document(plan, *, now_s=1_000_000.0, demand=DEMAND) -> CachePlan:
    return cache_plan("prod", "chat", plan, demand, currency="USD", now_s=now_s)


@given(count=st.integers(1, 300), chosen=st.integers(0, 299))
def test_a_frontier_is_thinned_to_its_ends_and_the_chosen_point(count: int, chosen: int) -> None:
    frontier = [candidate(size) for size in range(1, count + 1)]
    kept = thinned(frontier, frontier[chosen % count], 64)
    assert len(kept) == min(count, len(kept)) <= 64
    assert len(kept) >= min(count, 63)
    assert kept[0] is frontier[0]
    assert kept[-1] is frontier[-1]
    assert frontier[chosen % count] in kept
    assert kept == sorted(kept, key=lambda each: each.outcome.cost_per_hour)
    places = [frontier.index(each) for each in kept]
    assert max(np.diff(places), default=0) <= max(math.ceil((count - 1) / 62), 1), "evenly between the ends"


def test_a_chosen_point_off_the_frontier_is_added() -> None:
    frontier = [candidate(size) for size in range(1, 101)]
    off = candidate(50, cost_per_hour=2.555)
    written = document(plan_from(frontier, off))
    assert len(written.spec.frontier) <= 64
    assert written.spec.point == point_of(off)


def test_the_same_plan_has_the_same_name_and_another_one_another() -> None:
    frontier = [candidate(1), candidate(2)]
    plan = plan_from(frontier, frontier[1])
    first = document(plan)
    assert first.metadata.name.startswith("chat-")
    assert first == document(plan, now_s=1_000_060.0), "a minute later it is the same document"
    assert document(plan_from(frontier, frontier[0])).metadata.name != first.metadata.name
    other = replace(DEMAND, curve=HitCurve(np.array([1, 2]), np.array([0.1, 0.3])))
    assert document(plan, demand=other).metadata.name != first.metadata.name
    assert document(plan, now_s=1_000_000.0 + 2 * VALIDITY_S).metadata.name != first.metadata.name


@given(st.floats(0, 2**33))
def test_a_plan_is_valid_for_a_day_to_a_day_and_a_half(now_s: float) -> None:
    lone = candidate(1)
    left_s = document(plan_from([lone], lone), now_s=now_s).spec.valid_until - now_s
    assert VALIDITY_S < left_s <= 1.5 * VALIDITY_S


def test_what_is_written_is_what_is_read() -> None:
    frontier = [
        candidate(1),
        candidate(2, ttl_s=90.0, tier_class="essd-pl1", ssd_bytes=5 * GIB),
        candidate(3, ttl_s=(0.0, 60.0, 600.0), tier_class="essd-pl1", ssd_bytes=7 * GIB),
        candidate(4, stable=False),
    ]
    written = document(plan_from(frontier, frontier[1]))
    stored = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    read = CachePlan.model_validate(stored)
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True) == stored
    assert read.spec == written.spec
    points = stored["spec"]["frontier"]
    assert points[0] == {
        "dram": "1Gi",
        "tiersPerHour": "1.235",
        "costPerHour": "2.501",
        "throughput": "12350",
        "ttft": {"mean": "123.5ms", "p50": "100ms", "p99": "1.235s"},
        "hitRatio": "0.3123",
        "stable": True,
    }
    assert (points[1]["ssd"], points[1]["class"], points[1]["ttl"]) == ("5Gi", "essd-pl1", "1m30s")
    assert points[2]["groups"] == ["0s", "1m", "10m"]
    assert "ttl" not in points[2]
    assert "ttft" not in points[3], "latencies of a growing queue mean nothing"


def test_a_point_says_what_the_cache_shall_hold() -> None:
    def target(**kwargs) -> Target:
        return target_of(point_of(candidate(2, **kwargs)))

    assert target() == Target(2 * GIB)
    assert target(ttl_s=90.0, tier_class="a", ssd_bytes=GIB) == Target(2 * GIB, GIB, 90.0)
    assert target(ttl_s=(0.0, 60.0), tier_class="a", ssd_bytes=GIB) == Target(2 * GIB, GIB, 60.0)
    assert target(ttl_s=0.0, tier_class="a") == Target(2 * GIB), "a time-out of 0 writes nothing"
