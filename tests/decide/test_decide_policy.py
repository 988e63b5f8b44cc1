"""The policy over both tiers: each rule by hand, and what holds whatever comes together."""

from dataclasses import replace

import pytest

from kvtide_operator.api.status import PredictionError, Sizes
from kvtide_operator.decide.effect import Contradiction
from kvtide_operator.decide.policy import judge
from kvtide_operator.decide.situation import Recommendation, least_of, recommendation_of
from kvtide_operator.decide.target import initial_target
from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.world.metrics import EngineMetrics, Missing, Stale, Value

GI = 1 << 30


def metrics(now_s, **readings):
    usual = {"instances": 2, "requests_per_s": 5, "running": 3, "waiting": 0, "ttft_mean_s": 0.8}
    given = {
        name: Value(now_s, float(value)) if isinstance(value, int | float) else value
        for name, value in (usual | readings).items()
    }
    return EngineMetrics(at_s=now_s, window_s=600, **given)


def reasons(verdict):
    return {tier.tier: tier.reason for tier in verdict.tiers}


# Where the cache is, where the plan would have it, and where it goes: (DRAM Gi, SSD Gi, TTL s).
STEPS = {
    "dram grows by a quarter": ((128,), (512,), (160,), "Grow"),
    "dram shrinks by a quarter": ((256,), (64,), (192,), "Shrink"),
    "dram goes no further than the plan": ((128,), (136,), (136,), "Grow"),
    "dram moves one step of the tier at least": ((64, 0), (512,), (80,), "Grow"),
    "an ssd that is not there begins at its goal": ((128,), (128, 640, 900), (128, 640, 900), "Grow"),
    "an ssd begins at the most it may have": ((128,), (128, 8192, 9000), (128, 4096, 3600), "Grow"),
    "an ssd grows by a quarter, and its ttl": ((128, 640, 900), (128, 2048, 1800), (128, 800, 1110), "Grow"),
    "an ssd shrinks by a quarter": ((128, 640, 900), (128, 320, 900), (128, 480, 900), "Shrink"),
    "an ssd that is not wanted shrinks, too": ((128, 640, 900), (128,), (128, 480, 900), "Shrink"),
    "the last of it goes": ((128, 16, 900), (128,), (128, 0, None), "Shrink"),
    "growth goes first": ((256, 320, 900), (128, 640, 900), (256, 400, 900), "Grow"),
    "growth goes first, the other way": ((128, 320, 900), (256, 160, 900), (160, 320, 900), "Grow"),
    "only the ttl": ((128, 640, 900), (128, 640, 600), (128, 640, 690), "Retain"),
    "a ttl of a step at least": ((128, 640, 60), (128, 640, 600), (128, 640, 90), "Retain"),
    "beyond the most": ((2048,), (512,), (1536,), "Shrink"),
    "below the least": ((32,), (64,), (40,), "Grow"),
    "nowhere": ((128, 640, 900), (128, 640, 900), (128, 640, 900), "Hold"),
}


@pytest.mark.parametrize(("here", "chosen", "to", "action"), STEPS.values(), ids=STEPS)
def test_one_step(situation, make, here, chosen, to, action):
    verdict = judge(situation(make.target(*here), make.candidate(*chosen)))
    assert verdict.target == make.target(*to)
    assert verdict.action == action


def test_the_first_target_is_the_declared_one(make):
    assert initial_target(make.spec()) == make.target(128)
    assert initial_target(make.spec(ssd={"initial": "64Gi"})) == make.target(128, 64, 3600)


def test_half_a_step_where_the_trace_is_inferred(situation, make):
    verdict = judge(situation(make.target(256), make.candidate(1024), inferred=True))
    assert verdict.target == make.target(288)


def test_each_tier_says_what_it_does_and_why(situation, make):
    here, past = (
        make.target(256, 320, 900),
        [Recommendation(make.now_s - 60, 250 * GI, 640 * GI, 900, "slow")],
    )
    verdict = judge(situation(here, make.candidate(128, 1024, 900), recommended=past))
    dram, ssd, ttl = verdict.tiers
    assert (dram.tier, dram.action, dram.before, dram.after) == ("dram", "hold", "256Gi", "256Gi")
    assert "the other tier grows first" in dram.reason
    assert (ssd.tier, ssd.action, ssd.before, ssd.after) == ("ssd", "grow", "320Gi", "400Gi")
    assert (ttl.tier, ttl.action, ttl.before, ttl.after) == ("ttl", "hold", "15m", "15m")
    assert verdict.reason == "because"


def test_a_shrink_waits_for_the_whole_window_of_its_own_tier(situation, make):
    here = make.target(256, 640, 900)
    past = [Recommendation(make.now_s - 300, 128 * GI, 640 * GI, 900, "slow")]
    verdict = judge(situation(here, make.candidate(128, 320, 900), recommended=past))
    assert verdict.target == make.target(192, 640, 900)
    assert "more was needed within the last 600 s" in reasons(verdict)["ssd"]


def test_nothing_shrinks_before_a_window_was_watched(situation, make):
    here, chosen = make.target(256, 640, 900), make.candidate(128, 1024, 900)
    verdict = judge(situation(here, chosen, observing_since_s=make.now_s - 599))
    assert verdict.target == make.target(256, 800, 900)
    assert "watches for 600 s before the first shrink" in reasons(verdict)["dram"]


# Every way in which something is not known.
UNKNOWN = {
    "no metrics read": (None, "were not read"),
    "missing": ({"ttft_mean_s": Missing("no engine exposes it")}, "ttft_mean_s is not known (no engine"),
    "stale": ({"running": Stale(1_699_999_400.0, 7.0)}, "running is 600 s old (it was 7)"),
    "no instances": ({"instances": Missing("nothing was found")}, "instances is not known"),
}


@pytest.mark.parametrize(("given", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_holds_while_metrics_are_not_known(situation, make, given, why):
    seen = None if given is None else metrics(make.now_s, **given)
    verdict = judge(
        situation(make.target(128), make.candidate(512), spec=make.spec(metrics=True), metrics=seen)
    )
    assert (verdict.action, verdict.target) == ("Hold", make.target(128))
    assert why in verdict.reason
    assert {tier.reason for tier in verdict.tiers} == {verdict.reason}


def test_zero_is_known_and_has_no_latency(situation, make):
    seen = metrics(make.now_s, waiting=0, running=0, requests_per_s=0, ttft_mean_s=Missing("idle"))
    given = situation(make.target(128), make.candidate(512), spec=make.spec(metrics=True), metrics=seen)
    assert judge(given).action == "Grow"


def test_metrics_that_nobody_declared_are_not_missed(situation, make):
    assert judge(situation(make.target(128), make.candidate(512))).action == "Grow"


def test_holds_while_a_node_is_silent_or_there_is_no_plan(situation, make):
    silent = judge(situation(make.target(128), make.candidate(512), silent=["chat-0: no answer"]))
    assert silent.reason == "keeps all sizes while a node is silent (chat-0: no answer)"
    assert "no requests within the window" in judge(situation(make.target(128))).reason


def test_manual_and_advise(situation, make):
    manual = judge(situation(make.target(128), make.candidate(512), spec=make.spec(mode="Manual")))
    assert (manual.action, manual.reason) == ("Hold", "mode is Manual")
    advise = situation(make.target(128), make.candidate(512), spec=make.spec(mode="Advise"))
    verdict = judge(advise)
    assert (verdict.action, verdict.target) == ("Hold", make.target(128))
    assert "would go to 160Gi of DRAM" in verdict.reason
    approved = judge(replace(advise, approved=True))
    assert (approved.action, approved.target) == ("Grow", make.target(160))


@pytest.mark.parametrize(
    ("prefer", "gain", "moves"),
    [
        ("Cost", 0.02, False),
        ("Cost", 0.04, True),  # prices are known: the error of a latency has no say
        ("Latency", 0.04, False),
        ("Latency", 0.11, True),
        ("Throughput", 0.05, False),  # a hit ratio off by 0.03 where half is computed is 6 %
        ("Throughput", 0.07, True),
        ("Balanced", 0.09, False),
        ("Balanced", 0.11, True),
        ("Latency", 1.0, True),
    ],
)
def test_a_gain_must_exceed_the_minimum_and_the_predictors_error(situation, make, prefer, gain, moves):
    noise = PredictionError(hit_ratio=0.03, ttft=0.10)
    given = situation(
        make.target(128), make.candidate(512), gain=gain, spec=make.spec(prefer=prefer), noise=noise
    )
    verdict = judge(given)
    assert (verdict.action != "Hold") == moves
    if not moves:
        assert f"would gain {gain:.1%}, less than" in verdict.reason


def test_a_size_out_of_bounds_comes_back_whatever_the_gain(situation, make):
    verdict = judge(situation(make.target(2048), make.candidate(1024), gain=0.0))
    assert verdict.target == make.target(1536)


# Decisions so far (seconds ago, action, from, to, outcome), and whether growing from 128 to 512 Gi is held.
COOL = {
    "a failed grow": ([(599, "Grow", 128, 160, "failed: no node has room")], True),
    "a failed grow of long ago": ([(601, "Grow", 128, 160, "failed: no node has room")], False),
    "two failed grows": (
        [(1199, "Grow", 128, 160, "failed: x"), (3000, "Grow", 128, 160, "failed: x")],
        True,
    ),
    "that is over": ([(1201, "Grow", 128, 160, "failed: x"), (3000, "Grow", 128, 160, "failed: x")], False),
    "a failed shrink": ([(10, "Shrink", 160, 128, "failed: still in use")], False),
    "a grow that worked": ([(10, "Grow", 96, 128, "done")], False),
    "one under way": ([(10, "Grow", 96, 128, None)], False),
    "a grow that was taken back": ([(10, "RollBack", 160, 128, "done")], True),
    "a shrink that was taken back": ([(10, "RollBack", 96, 128, "done")], False),
    "never longer than four hours": ([(14_401 + n, "Grow", 128, 160, "failed: x") for n in range(10)], False),
    "nearly so long": ([(14_399 + n, "Grow", 128, 160, "failed: x") for n in range(10)], True),
}


@pytest.mark.parametrize(("past", "held"), COOL.values(), ids=COOL)
def test_cools_down_after_a_failure(situation, make, past, held):
    decisions = [
        make.decision(ago, action, make.target(before), make.target(after), outcome)
        for ago, action, before, after, outcome in past
    ]
    verdict = judge(situation(make.target(128), make.candidate(512), decisions=decisions))
    assert (verdict.action == "Hold") == held
    if held:
        assert "does not go to 512Gi before 20" in verdict.reason


def test_a_failure_of_one_tier_does_not_hold_the_other(situation, make):
    failed = make.decision(
        10, "Grow", make.target(128, 320, 60), make.target(128, 400, 60), "failed: refused"
    )
    here, chosen = make.target(128, 320, 60), make.candidate(512, 640, 60)
    assert judge(situation(here, chosen, decisions=[failed])).target == make.target(160, 320, 60)


def cost(to, tier_class):
    return to.dram_bytes / GI * 0.004 + to.ssd_bytes / GI * (0.0003 if tier_class == "slow" else 0.0006)


# Budget 1.28 an hour: 320 Gi of DRAM, or less and some SSD.
BUDGET = {
    "a grow within the budget": ((256,), (320,), (320,), "Grow"),
    "a grow beyond it": ((320,), (512,), (320,), "Hold"),
    "shrinks first, to make room": ((320,), (256, 640, 900), (256,), "Shrink"),
    "then grows": ((256,), (256, 640, 900), (256, 640, 900), "Grow"),
    "over the budget already, it may still shrink": ((512,), (320,), (384,), "Shrink"),
}


@pytest.mark.parametrize(("here", "chosen", "to", "action"), BUDGET.values(), ids=BUDGET)
def test_keeps_to_the_budget_on_the_way(situation, make, here, chosen, to, action):
    verdict = judge(
        situation(
            make.target(*here), make.candidate(*chosen), spec=make.spec(budget="1.28"), cost_per_hour=cost
        )
    )
    assert (verdict.target, verdict.action) == (make.target(*to), action)
    if action == "Hold":
        assert "would cost more than the budget of 1.28" in verdict.reason


def test_an_ssd_that_would_wear_out_does_not_grow(situation, make):
    chosen = make.candidate(160, 1024, 1800, endurance_used=1.4)
    verdict = judge(situation(make.target(128, 320, 900), chosen))
    assert verdict.target == make.target(160, 320, 900)
    assert "140% of the class's endurance" in reasons(verdict)["ssd"]


SPEEDS = Speeds(
    prefill_tokens_per_s=10_000, dram_tokens_per_s=400_000, ssd_tokens_per_s=50_000, kv_bytes_per_token=1024
)
SLOW = 5_000

# (measured, modelled, here) and what becomes of it.
BREAK_EVEN = {
    "measured slow, the ssd goes at once": (
        {"external_load_tokens_per_s": SLOW, "prefill_tokens_per_s": 10_000}, SPEEDS,
        (256, 640, 900), (256, 0, None), "TurnOff",
    ),
    "measured in bytes": (
        {"external_load_bytes_per_s": SLOW * 1024, "prefill_tokens_per_s": 10_000}, SPEEDS,
        (256, 640, 900), (256, 0, None), "TurnOff",
    ),
    "measured fast against the model": (
        {"external_load_tokens_per_s": 20_000, "prefill_tokens_per_s": 10_000},
        replace(SPEEDS, ssd_tokens_per_s=SLOW), (256, 640, 900), (256, 640, 900), "Hold",
    ),
    "within the margin": (
        {"external_load_tokens_per_s": 9_500, "prefill_tokens_per_s": 10_000}, SPEEDS,
        (256, 640, 900), (256, 640, 900), "Hold",
    ),
    "modelled slow": ({}, replace(SPEEDS, ssd_tokens_per_s=SLOW), (256, 640, 900), (256, 0, None), "TurnOff"),
    "modelled fast": ({}, SPEEDS, (256, 640, 900), (256, 640, 900), "Hold"),
    "no model": ({}, None, (256, 640, 900), (256, 640, 900), "Hold"),
    "dram measured slow goes by steps": (
        {"external_load_tokens_per_s": SLOW, "prefill_tokens_per_s": 10_000}, SPEEDS,
        (256,), (192,), "Shrink",
    ),
    "dram modelled slow": (
        {}, replace(SPEEDS, ssd_tokens_per_s=None, dram_tokens_per_s=SLOW), (256,), (192,), "Shrink",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("readings", "speeds", "here", "to", "action"), BREAK_EVEN.values(), ids=BREAK_EVEN)
def test_a_tier_slower_than_computing_is_turned_off(situation, make, readings, speeds, here, to, action):
    seen = metrics(make.now_s, **readings)
    verdict = judge(
        situation(make.target(*here), make.candidate(*here), gain=0.0, metrics=seen, speeds=speeds)
    )
    assert (verdict.target, verdict.action) == (make.target(*to), action)
    if action != "Hold":
        assert any("loading is slower than computing: 5,000" in tier.reason for tier in verdict.tiers)


def test_a_declared_minimum_is_kept_and_said(situation, make):
    spec = make.spec(ssd={"initial": "160Gi", "min": "160Gi"})
    speeds = replace(SPEEDS, ssd_tokens_per_s=SLOW)
    verdict = judge(
        situation(make.target(256, 640, 900), make.candidate(256, 640, 900), spec=spec, speeds=speeds)
    )
    assert verdict.target == make.target(256, 160, 900)
    assert "only the declared minimum of 160Gi is kept" in verdict.reason
    there = judge(
        situation(make.target(256, 160, 900), make.candidate(256, 160, 900), spec=spec, speeds=speeds)
    )
    assert there.action == "Hold"


def test_what_was_turned_off_is_not_turned_on_at_once(situation, make):
    off = make.decision(500, "TurnOff", make.target(256, 640, 900), make.target(256))
    here, chosen = make.target(256), make.candidate(256, 640, 900)
    assert judge(situation(here, chosen, decisions=[off])).action == "Hold"
    assert judge(situation(here, chosen, decisions=[replace_time(off, 601, make)])).action == "Grow"


def replace_time(decision, ago_s, make):
    return decision.model_copy(update={"time": make.now_s - ago_s})


def test_a_contradicted_move_is_taken_back_at_once(situation, make):
    back = Contradiction(Sizes(dram=256 * GI, ssd=640 * GI, ttl=900.0), "the hit ratio fell")
    verdict = judge(situation(make.target(128), make.candidate(64), contradiction=back))
    assert (verdict.action, verdict.target) == ("RollBack", make.target(256, 640, 900))
    assert verdict.reason == "takes the last move back: the hit ratio fell"
    assert (
        judge(situation(make.target(256, 640, 900), make.candidate(64), contradiction=back)).action
        != "RollBack"
    )


def test_an_idle_cache_shrinks_to_the_least_in_steps_and_says_so(situation, make):
    here, seen = make.target(512, 160, 600.0), 0
    recommended = []
    for minute in range(40):
        at = situation(here, idle=True, recommended=tuple(recommended))
        at = replace(at, now_s=make.now_s + 60 * minute, observing_since_s=make.now_s - 3600)
        verdict = judge(at)
        recommended.append(least_of(at.spec, here, at.now_s))
        if verdict.action == "Hold":
            break
        assert verdict.action == "Shrink"
        assert verdict.reason == "idle: no requests within 1h"
        assert verdict.target.dram_bytes < here.dram_bytes or verdict.target.ssd_bytes < here.ssd_bytes
        here, seen = verdict.target, seen + 1
    assert (here, verdict.action) == (make.target(64), "Hold")
    assert verdict.reason == "idle: no requests within 1h, and 64Gi of DRAM is the least that is declared"
    assert 4 < seen < 20


def test_an_idle_cache_waits_until_its_stabilisation_is_over(situation, make):
    wanted = [recommendation_of(make.candidate(512), make.now_s - 60)]
    at = situation(make.target(512), idle=True, recommended=wanted, observing_since_s=make.now_s - 3600)
    verdict = judge(at)
    assert (verdict.action, verdict.target) == ("Hold", make.target(512))
    assert "more was needed within the last 600 s" in verdict.reason
    just_started = situation(make.target(512), idle=True, observing_since_s=make.now_s - 60)
    assert "watches for 600 s before the first shrink" in judge(just_started).reason


def test_no_answer_and_requests_that_no_node_saw_are_not_idleness(situation, make):
    watched = {"idle": True, "observing_since_s": make.now_s - 3600}
    at = situation(make.target(512), observing_since_s=make.now_s - 3600)
    assert judge(at).reason == "has seen no requests within the window that it could plan for"
    at = situation(make.target(512), silent=["node-1: no answer"], **watched)
    assert "a node is silent" in judge(at).reason
    at = situation(
        make.target(512),
        metrics=metrics(make.now_s, requests_per_s=3),
        spec=make.spec(metrics=True),
        **watched,
    )
    assert judge(at).reason == (
        "keeps all sizes: the engines serve 3 requests a second, and none reach the nodes' traces"
    )


def test_an_idle_cache_under_advise_only_says_what_it_would_do(situation, make):
    at = situation(
        make.target(512),
        idle=True,
        approved=True,
        spec=make.spec(mode="Advise"),
        observing_since_s=make.now_s - 3600,
    )
    verdict = judge(at)
    assert (verdict.action, verdict.target) == ("Hold", make.target(512))
    assert verdict.reason.startswith("mode is Advise; would go to 384Gi of DRAM: idle: no requests")
