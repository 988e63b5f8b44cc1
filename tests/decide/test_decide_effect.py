"""Prediction error and the effect of moves, by hand."""

import pytest

from kvtide_operator.api.point import Latency, Point
from kvtide_operator.api.status import PredictionError, Sizes
from kvtide_operator.decide.effect import Run, Windows, contradiction, effect_s, last_run, windows_of
from kvtide_operator.decide.prediction import Measured, deviation, measured, smoothed
from kvtide_operator.world.metrics import EngineMetrics, Missing, Stale, Value

GI = 1 << 30
AT_S = 1_700_000_000.0


def seen(**readings):
    usual = {
        "instances": 2,
        "requests_per_s": 10,
        "prompt_tokens_per_s": 9000,
        "prefix_hit_ratio": 0.5,
        "ttft_mean_s": 1,
    }
    given = {
        name: Value(AT_S, float(value)) if isinstance(value, int | float) else value
        for name, value in (usual | readings).items()
    }
    return EngineMetrics(at_s=AT_S, window_s=600, **given)


def point(hit_ratio=0.5, ttft_mean_s=1.0):
    return Point(
        dram=GI,
        tiers_per_hour=1.0,
        cost_per_hour=2.0,
        throughput=100.0,
        ttft=Latency(mean=ttft_mean_s, p50=ttft_mean_s, p99=ttft_mean_s) if ttft_mean_s else None,
        hit_ratio=hit_ratio,
        stable=ttft_mean_s is not None,
    )


RUN = Run(AT_S - 1500, AT_S - 1200, Sizes(dram=2 * GI), Sizes(dram=GI))
SHRINK = (point(0.5, 1.0), point(0.4, 1.2))
GROW = (point(0.5, 1.0), point(0.6, 0.8))

# (planned, readings after, noise) and what contradicts: before it 0.5 of hits and 1 s of TTFT.
EFFECTS = {
    "as planned": (SHRINK, {"prefix_hit_ratio": 0.4, "ttft_mean_s": 1.2}, None, None),
    "better than planned": (SHRINK, {"prefix_hit_ratio": 0.5, "ttft_mean_s": 0.9}, None, None),
    "fewer hits than planned": (
        SHRINK,
        {"prefix_hit_ratio": 0.37},
        None,
        "hit ratio went from 50.0% to 37.0%",
    ),
    "by less than the least error": (SHRINK, {"prefix_hit_ratio": 0.385}, None, None),
    "by less than twice the usual error": (SHRINK, {"prefix_hit_ratio": 0.37}, (0.02, None), None),
    "slower than planned": (SHRINK, {"ttft_mean_s": 1.35}, None, "TTFT went from 1 s to 1.35 s"),
    "slower by less than twice the usual error": (SHRINK, {"ttft_mean_s": 1.35}, (None, 0.1), None),
    "a grow that gains less": (GROW, {"prefix_hit_ratio": 0.5, "ttft_mean_s": 1.05}, None, None),
    "a grow that loses": (GROW, {"prefix_hit_ratio": 0.45}, None, "where the plan has +10.0%"),
    "a grow that slows down": (GROW, {"ttft_mean_s": 1.2}, None, "where the plan has -20%"),
    "under twice the load": (SHRINK, {"ttft_mean_s": 9, "requests_per_s": 20}, None, None),
    "of longer prompts": (SHRINK, {"ttft_mean_s": 9, "prompt_tokens_per_s": 14_000}, None, None),
    "with fewer engines": (SHRINK, {"ttft_mean_s": 9, "instances": 1}, None, None),
    "unknown load": (SHRINK, {"ttft_mean_s": 9, "requests_per_s": Missing("gone")}, None, None),
    "unknown ttft": (SHRINK, {"ttft_mean_s": Stale(AT_S - 999, 9.0)}, None, None),
    "planned without a ttft": ((point(), point(0.5, None)), {"ttft_mean_s": 9}, None, None),
}


@pytest.mark.parametrize(("planned", "after", "noise", "why"), EFFECTS.values(), ids=EFFECTS)
def test_what_contradicts_a_plan(planned, after, noise, why):
    error = PredictionError(hit_ratio=noise[0], ttft=noise[1]) if noise else None
    found = contradiction(RUN, seen(), seen(**after), planned, error)
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert why in found.why
        assert found.back_to == RUN.before


def test_moves_without_a_pause_are_one_run(make):
    sizes = [make.target(each) for each in (64, 80, 100, 125, 156)]
    grows = [
        make.decision(ago, "Grow", sizes[n], sizes[n + 1])
        for n, ago in ((3, 60), (2, 120), (1, 180), (0, 2000))
    ]
    run = last_run(grows, 600.0)
    assert run == Run(make.now_s - 180, make.now_s - 60, grows[2].before, grows[0].after)
    assert last_run([], 600.0) is None


def test_what_failed_or_was_undone_is_no_run(make):
    grow = make.decision(60, "Grow", make.target(64), make.target(80), "failed: no room")
    back = make.decision(60, "RollBack", make.target(80), make.target(64))
    earlier = make.decision(120, "Grow", make.target(64), make.target(80))
    assert last_run([grow, earlier], 600.0) is None
    assert last_run([back, earlier], 600.0) is None
    assert last_run([earlier, grow], 600.0) == Run(earlier.time, earlier.time, earlier.before, earlier.after)


@pytest.mark.parametrize(("since_s", "judged"), [(1199, False), (1200, True), (2400, True), (2401, False)])
def test_a_run_is_judged_once_it_settled_and_while_it_is_fresh(since_s, judged):
    found = windows_of(RUN, RUN.ended_s + since_s, effect_s(600.0))
    assert found == (Windows(RUN.began_s, RUN.ended_s + since_s, 600.0) if judged else None)


def test_a_minute_at_least_to_settle():
    assert effect_s(0.0) == 60.0


def figures(error):
    return error.hit_ratio, error.ttft


def test_the_error_is_measured_less_simulated(make):
    simulated = make.candidate(1, prefix_hit_ratio=0.45, ttft_mean_s=0.8).outcome
    assert figures(deviation(simulated, Measured(0.5, 1.0))) == pytest.approx((0.05, 0.2))
    assert figures(deviation(simulated, Measured(None, None))) == (None, None)
    assert deviation(simulated, Measured(0.5, 0.0)).ttft is None
    growing = make.candidate(1, stable=False).outcome
    assert deviation(growing, Measured(0.5, 9.0)).ttft is None


def test_the_running_error_is_of_magnitudes_and_forgets():
    noise = smoothed(None, PredictionError(hit_ratio=-0.1))
    assert figures(noise) == (0.1, None)
    noise = smoothed(noise, PredictionError(hit_ratio=0.05, ttft=-0.3))
    assert figures(noise) == pytest.approx((0.09, 0.3))
    assert smoothed(noise, PredictionError()) == noise
    for _ in range(10):
        noise = smoothed(noise, PredictionError(ttft=0.0))
    assert noise.ttft == pytest.approx(0.3 * 0.8**10)


def test_what_a_plan_is_compared_with_depends_on_the_grade_of_its_trace():
    metrics = seen(prefix_hit_ratio=0.6, external_hit_ratio=0.3, ttft_mean_s=1.5)
    assert measured(metrics, None, inferred=False) == Measured(0.6, 1.5)
    assert measured(metrics, None, inferred=True) == Measured(0.3, 1.5)
    assert measured(metrics, 0.55, inferred=False) == Measured(0.55, 1.5)
    assert measured(None, 0.55, inferred=False) == Measured(0.55, None)
    assert measured(seen(ttft_mean_s=Missing("idle")), None, inferred=False) == Measured(0.5, None)
