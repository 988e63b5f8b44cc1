"""What means of metrics say of step times, against engines whose step times are known."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.simulate.engine.pace import LEAST_REQUESTS, Pace, pace_of
from kvtide_operator.simulate.engine.profiles import shipped
from kvtide_operator.simulate.engine.scaled_profile import scaled
from kvtide_operator.simulate.engine.step_times import decode_step_s, step_s
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.world.metrics import EngineMetrics, Missing, Stale, Value

NOW_S, WINDOW_S = 1_800_000_000.0, 600.0
BASE = shipped()["llama-3.1-8b_h100_sxm_vllm"]
ANSWER, NEW, CACHED = 100, 1500, 500


def metrics(**values: float) -> EngineMetrics:
    return EngineMetrics(
        at_s=NOW_S, window_s=WINDOW_S, **{name: Value(NOW_S, value) for name, value in values.items()}
    )


def seen(rate: float, prefill_s: float, step_s: float, engines: int = 2) -> EngineMetrics:
    """Engines that take turns: prefills one at a time, each with a token for all answers; decode steps."""
    busy = rate * prefill_s
    inter_token_s = 1 / ((1 - busy) / step_s + rate)
    return metrics(
        instances=engines,
        requests_per_s=engines * rate,
        prompt_tokens_per_s=engines * rate * (NEW + CACHED),
        generation_tokens_per_s=engines * rate * ANSWER,
        prefill_tokens_per_s=NEW / prefill_s,
        prefix_hit_ratio=CACHED / (NEW + CACHED),
        inter_token_mean_s=inter_token_s,
    )


@given(st.floats(0.2, 4.0), st.floats(0.01, 0.1), st.floats(0.005, 0.05), st.integers(1, 8))
def test_prefills_and_decode_steps_are_told_apart(rate, prefill_s, step_s, engines):
    pace = pace_of(seen(rate, prefill_s, step_s, engines))
    assert isinstance(pace, Pace)
    assert pace.prefill_s == pytest.approx(prefill_s)
    assert pace.decode_step_s == pytest.approx(step_s)
    assert (pace.new_tokens, pace.cached_tokens, pace.answer_tokens) == pytest.approx((NEW, CACHED, ANSWER))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 5.0), st.floats(0.5, 1.5), st.floats(1.0, 40.0))
def test_a_profile_is_brought_to_the_pace_and_keeps_rising(prefill_factor, ratio, batch):
    decode_factor = ratio * prefill_factor
    pace = Pace(float(NEW), float(CACHED), float(ANSWER), batch, 0.0, 0.0)
    context = pace.context_tokens
    pace = replace(
        pace,
        prefill_s=prefill_factor * step_s(BASE.tables, NEW, CACHED, batch, context),
        decode_step_s=decode_factor * decode_step_s(BASE.tables, batch, context),
    )
    profile = scaled(BASE, pace)
    assert "as measured" in profile.source
    assert step_s(profile.tables, NEW, CACHED, 0.0, 0.0) == pytest.approx(
        prefill_factor * step_s(BASE.tables, NEW, CACHED, 0.0, 0.0), rel=0.02
    )
    steps = [decode_step_s(profile.tables, b, context) for b in (1.0, 4.0, 16.0, 64.0, 256.0)]
    assert steps == sorted(steps)
    assert decode_step_s(profile.tables, batch, context) == pytest.approx(pace.decode_step_s, rel=0.02)


def test_a_pace_as_the_base_says_changes_nothing():
    pace = Pace(float(NEW), float(CACHED), float(ANSWER), 8.0, 0.0, 0.0)
    context = pace.context_tokens
    pace = replace(
        pace,
        prefill_s=step_s(BASE.tables, NEW, CACHED, 8.0, context),
        decode_step_s=decode_step_s(BASE.tables, 8.0, context),
    )
    profile = scaled(BASE, pace)
    for new, cached, batch in ((100, 0, 0), (2000, 3000, 0), (512, 0, 30), (0, 0, 64)):
        before, after = (
            step_s(tables, float(new), float(cached), float(batch), 1000.0)
            for tables in (BASE.tables, profile.tables)
        )
        assert after == pytest.approx(before, rel=1e-6)


def test_a_base_of_another_kind_of_machine_is_refused():
    with pytest.raises(
        SimulationError, match=r"prefills take .* times as long as the engine profile's base says"
    ):
        scaled(BASE, Pace(1500.0, 0.0, 100.0, 1.0, 300.0, 0.01))


@pytest.mark.parametrize("reading", [Missing("no engine exposes it"), Stale(NOW_S - 600, 0.01)])
def test_what_is_not_known_now_gives_no_pace(reading):
    given_now = replace(seen(1.0, 0.05, 0.01), inter_token_mean_s=reading)
    assert pace_of(given_now) == "inter_token_mean_s cannot be read"


def test_no_metrics_give_no_pace():
    assert pace_of(None) == "no metrics are declared"


def test_few_requests_give_no_pace():
    few = seen((LEAST_REQUESTS - 1) / WINDOW_S / 2, 0.05, 0.01)
    assert pace_of(few) == "99 requests were served within the window, 100 are needed"


def test_an_engine_that_prefills_all_the_time_gives_no_pace():
    said = pace_of(seen(15.0, 0.05, 0.01))
    assert isinstance(said, str)
    assert said.startswith("prefills take 75% of the time")


def test_engines_without_answers_give_no_pace():
    shortest = replace(seen(1.0, 0.05, 0.01), generation_tokens_per_s=Value(NOW_S, 2.0))
    assert pace_of(shortest) == "requests have no prompt to compute or no answer to decode"


def test_a_tenth_is_worth_a_new_plan():
    pace = Pace(1500.0, 0.0, 100.0, 1.0, 0.1, 0.01)
    assert pace.differs(replace(pace, prefill_s=0.12))
    assert pace.differs(replace(pace, decode_step_s=0.0085))
    assert not pace.differs(replace(pace, prefill_s=0.105, decode_step_s=0.0105))
