"""What holds for every situation, and a loop closed over a day with a planner that knows what is needed."""

from dataclasses import replace
from itertools import pairwise
from math import cos, pi
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.decide.policy import judge
from kvtide_operator.decide.rules.inputs import ESSENTIAL
from kvtide_operator.decide.situation import Recommendation, Situation, recommendation_of
from kvtide_operator.decide.target import Target, initial_target
from kvtide_operator.world.metrics import EngineMetrics, Missing, Stale, Value

GI = 1 << 30
NOW_S = 1_700_000_000.0

DRAM = st.integers(64, 1024)
SSD = st.sampled_from([0, 0, 16, 160, 320, 640, 1000, 4096])
TTL = st.integers(1, 3600)


@st.composite
def wanted(draw, make):
    ssd = draw(SSD)
    return make.candidate(
        draw(DRAM),
        ssd,
        float(draw(TTL)) if ssd else 0.0,
        draw(st.sampled_from(["slow", "fast"])),
        endurance_used=draw(st.sampled_from([None, 0.5, 1.5])),
    )


@st.composite
def situations(draw, make):
    """A cache within its bounds, with a past, and no guard that is exempt from the limits."""
    ssd = draw(SSD)
    past = [
        recommendation_of(draw(wanted(make)), NOW_S - draw(st.floats(0, 1200)))
        for _ in range(draw(st.integers(0, 4)))
    ]
    spec = make.spec(
        maxStep=draw(st.floats(0.001, 1)),
        up={"stabilization": draw(st.sampled_from([0.0, 300.0]))},
        down={"stabilization": draw(st.sampled_from([0.0, 600.0]))},
        minimumGain=draw(st.sampled_from([0.0, 0.03])),
        prefer=draw(st.sampled_from(["Cost", "Latency", "Throughput", "Balanced"])),
        budget=draw(st.sampled_from([None, "1.0", "3.0"])),
        mode=draw(st.sampled_from(["Auto", "Auto", "Advise", "Manual"])),
    )
    return Situation(
        now_s=NOW_S,
        spec=spec,
        here=make.target(draw(DRAM), ssd, float(draw(TTL)) if ssd else None),
        ssd_class=draw(st.sampled_from(["slow", "fast"])) if ssd else None,
        plan=make.plan(draw(wanted(make)), gain=draw(st.floats(-0.5, 1.0))),
        inferred=draw(st.booleans()),
        recommended=sorted(past, key=lambda each: each.at_s),
        observing_since_s=NOW_S - draw(st.sampled_from([0.0, 3600.0])),
        cost_per_hour=cost,
    )


def cost(to: Target, tier_class: str | None) -> float:
    return to.dram_bytes / GI * 0.004 + to.ssd_bytes / GI * (0.0003 if tier_class == "slow" else 0.0006)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_step_leaves_the_bounds_or_the_step_limit_or_the_budget(make, data):
    at = data.draw(situations(make))
    verdict, here, spec = judge(at), at.here, at.spec
    dram, ssd = spec.dram.capacity, spec.ssd.capacity
    assert dram.min <= verdict.target.dram_bytes <= dram.max
    assert ssd.min <= verdict.target.ssd_bytes <= ssd.max
    assert (verdict.target.ttl_s is not None) == (verdict.target.ssd_bytes > 0)
    assert verdict.target.ttl_s is None or spec.ssd.ttl.min <= verdict.target.ttl_s <= spec.ssd.ttl.max
    share = spec.scaling.max_step * (0.5 if at.inferred else 1.0)
    for now, then, step in (
        (here.dram_bytes, verdict.target.dram_bytes, dram.step),
        (here.ssd_bytes, verdict.target.ssd_bytes, ssd.step),
    ):
        assert now == 0 or abs(then - now) <= max(now * share, step)
    if spec.objective.budget.tiers_per_hour is not None:
        tier_class = at.ssd_class or at.plan.chosen.configuration.tier_class
        before, after = cost(here, tier_class), cost(verdict.target, tier_class)
        assert after <= max(before, float(spec.objective.budget.tiers_per_hour))
    assert verdict.reason
    assert all(tier.reason for tier in verdict.tiers)
    if spec.scaling.mode != "Auto":
        assert (verdict.action, verdict.target) == ("Hold", here)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_every_dial_goes_between_here_and_what_was_ever_wanted(make, data):
    at = data.draw(situations(make))
    verdict = judge(at)
    wishes = [recommendation_of(at.plan.chosen, NOW_S), *at.recommended]
    for now, then, dial in (
        (at.here.dram_bytes, verdict.target.dram_bytes, "dram"),
        (at.here.ssd_bytes, verdict.target.ssd_bytes, "ssd"),
    ):
        chosen = wishes[0].amount(dial)
        assert min(now, chosen) <= then <= max(now, chosen)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), more=st.floats(0, 1))
def test_a_larger_gain_never_turns_a_move_into_a_hold(make, data, more):
    at = data.draw(situations(make))
    verdict = judge(at)
    better = judge(replace(at, plan=replace(at.plan, gain=min(at.plan.gain + more, 1.0))))
    if verdict.target != at.here:
        assert better.target == verdict.target


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(ESSENTIAL),
    reading=st.sampled_from([Missing("gone"), Stale(NOW_S - 999, 1.0)]),
)
def test_holds_whenever_any_input_is_not_known(make, data, name, reading):
    at = data.draw(situations(make))
    readings = dict.fromkeys(ESSENTIAL, Value(NOW_S, 1.0)) | {name: reading}
    metrics = EngineMetrics(at_s=NOW_S, window_s=60, **readings)
    spec = at.spec.model_copy(update={"metrics": make.spec(metrics=True).metrics})
    for unknown in (
        replace(at, spec=spec, metrics=metrics),
        replace(at, spec=spec),
        replace(at, plan=None),
        replace(at, silent=["chat-0: no answer"]),
    ):
        verdict = judge(unknown)
        assert (verdict.action, verdict.target, verdict.ssd_class) == ("Hold", at.here, at.ssd_class)


def day(make, need, spec, start: Target | None = None) -> list[Target]:
    """A loop of one round a minute over a day: ``need`` gives what is wanted, in Gi, at a share of the day.

    The plan's gain is the share by which the sizes are off.
    """
    here, past, seen = start or initial_target(spec), [], []
    for minute in range(1440):
        now_s = NOW_S + 60 * minute
        dram, ssd = need(minute / 1440)
        chosen = make.candidate(dram, ssd, 1800.0)
        off = [
            abs(size * GI - now) / max(size * GI, now, 1)
            for size, now in ((dram, here.dram_bytes), (ssd, here.ssd_bytes))
        ]
        verdict = judge(
            Situation(
                now_s=now_s,
                spec=spec,
                here=here,
                ssd_class="slow" if here.ssd_bytes else None,
                plan=make.plan(chosen, gain=max(off)),
                recommended=past,
                observing_since_s=NOW_S,
            )
        )
        past = [each for each in past if each.at_s > now_s - 900] + [recommendation_of(chosen, now_s)]
        here = verdict.target
        seen.append(here)
    return seen


def reversals(sizes: list[int]) -> int:
    """How often the direction changes."""
    moves = [b - a for a, b in pairwise(sizes) if a != b]
    return sum((a > 0) != (b > 0) for a, b in pairwise(moves))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_over_a_day_the_sizes_follow_the_need_without_oscillating(make, noise):
    random = Random(7)

    def smooth(share):
        return 500 - 350 * cos(2 * pi * share)

    def need(share):
        dram = smooth(share) * random.gauss(1.0, noise)
        return round(dram / 8) * 8, round(3 * dram / 16) * 16

    seen = day(make, need, make.spec())
    # Up in the morning, down in the afternoon; with noise a few small corrections on the way down.
    assert reversals([each.dram_bytes for each in seen]) <= (1 if noise == 0 else 5)
    assert reversals([each.ssd_bytes for each in seen]) <= (1 if noise == 0 else 5)
    for minute, each in enumerate(seen[30:], 30):
        # Never below the need by more than two steps, never above that of the last quarter of an hour.
        assert each.dram_bytes >= (0.95 * smooth(minute / 1440) - 16) * GI
        lately = max(smooth((minute - back) / 1440) for back in range(16))
        assert each.dram_bytes <= (1.05 * lately + 16) * GI


def test_a_need_that_flips_every_round_moves_the_cache_once(make):
    flips = iter(range(10_000))

    def need(_):
        return (128, 0) if next(flips) % 2 else (512, 640)

    seen = day(make, need, make.spec())
    assert reversals([each.dram_bytes for each in seen]) == 0
    assert seen[-1] == make.target(512, 640, 1800)


def test_a_recommendation_of_no_ssd_has_no_ttl(make):
    assert recommendation_of(make.candidate(128), 1.0) == Recommendation(1.0, 128 * GI)
    assert recommendation_of(make.candidate(128), 1.0).target == make.target(128)
