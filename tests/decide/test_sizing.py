from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.api.tieredcache import Capacity, Scaling
from kvtide_operator.decide.sizing import Decision, Recommendation, decide
from kvtide_operator.plan.live import Plan
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.simulate.configuration import Configuration

MI = 1 << 20
CAPACITY = Capacity(initial=256 * MI, min=64 * MI, max=1024 * MI, step=8 * MI)
NOW_S = 10_000.0


@dataclass(frozen=True)
class Seen:
    """An outcome of which only being stable matters here."""

    prefix_hit_ratio: float = 0.5
    ttft_mean_s: float = 1.0
    ttft_p50_s: float = 1.0
    ttft_p99_s: float = 2.0
    throughput_tok_s: float = 100.0
    storage_cost_per_hour: float = 1.0
    cost_per_hour: float = 2.0
    stable: bool = True


def plan(here_mi: int, chosen_mi: int, *, gain: float = 0.5) -> Plan:
    here, chosen = (Candidate(Configuration(mi * MI), Seen()) for mi in (here_mi, chosen_mi))
    return Plan(
        frontier=(chosen,),
        chosen=chosen,
        feasible=True,
        current=here,
        gain=gain,
        evaluations=1,
        why="because",
    )


def step(
    made: Plan, past: list[tuple[float, int]] | None = None, *, since_s: float = 0.0, **scaling: object
) -> Decision:
    return decide(
        made,
        [Recommendation(at_s, size * MI) for at_s, size in past or []],
        now_s=NOW_S,
        capacity=CAPACITY,
        scaling=Scaling.model_validate(scaling),
        observing_since_s=since_s,
    )


def test_grows_by_at_most_the_step_limit() -> None:
    made = step(plan(256, 1024), maxStep="25%")
    assert (made.action, made.to_bytes) == ("grow", 320 * MI)
    assert made.reason == "because"


def test_grows_at_least_one_step_of_the_tier_however_small_the_limit() -> None:
    assert step(plan(64, 1024), maxStep="1%").to_bytes == 72 * MI


def test_never_passes_the_chosen_point() -> None:
    assert step(plan(256, 264), maxStep="100%").to_bytes == 264 * MI


def test_shrinks_only_to_the_most_that_was_needed_within_the_window() -> None:
    past = [(NOW_S - 700, 900), (NOW_S - 500, 240), (NOW_S - 100, 200)]
    made = step(plan(256, 128), past, maxStep="100%", down={"stabilization": "10m"})
    assert (made.action, made.to_bytes) == ("shrink", 240 * MI)


def test_does_not_shrink_while_a_recent_plan_wanted_as_much_as_there_is() -> None:
    made = step(plan(256, 128), [(NOW_S - 30, 300)], down={"stabilization": "10m"})
    assert made.action == "hold"
    assert "waits before shrinking to 128Mi" in made.reason


def test_does_not_shrink_before_a_whole_window_was_watched() -> None:
    made = step(plan(256, 128), since_s=NOW_S - 599, down={"stabilization": "10m"})
    assert made.action == "hold"
    assert "watches for 600 s before the first shrink" in made.reason
    assert step(plan(256, 128), since_s=NOW_S - 600, down={"stabilization": "10m"}).action == "shrink"


def test_waits_before_growing_when_told_to() -> None:
    past = [(NOW_S - 30, 256)]
    assert step(plan(256, 512), past, up={"stabilization": "1m"}).action == "hold"
    assert step(plan(256, 512), [(NOW_S - 90, 256)], up={"stabilization": "1m"}).action == "grow"


def test_a_gain_below_the_minimum_is_not_worth_a_move() -> None:
    made = step(plan(256, 512, gain=0.02), minimumGain="3%")
    assert made.action == "hold"
    assert "would gain 2.0%" in made.reason


def test_a_size_outside_the_bounds_comes_back_whatever_the_gain() -> None:
    made = step(plan(2048, 1024, gain=0.0), maxStep="100%")
    assert (made.action, made.to_bytes) == ("shrink", 1024 * MI)


def test_manual_and_advise_change_nothing() -> None:
    assert step(plan(256, 512), mode="Manual").reason == "mode is Manual"
    advised = step(plan(256, 512), mode="Advise")
    assert advised.action == "hold"
    assert "would go to 320Mi" in advised.reason


@given(
    here=st.integers(1, 2000),
    chosen=st.integers(64, 1024),
    past=st.lists(st.tuples(st.floats(0, NOW_S), st.integers(64, 1024)), max_size=8),
    max_step=st.floats(0, 1),
    down_s=st.floats(0, 5000),
    up_s=st.floats(0, 5000),
)
def test_a_step_goes_towards_the_chosen_point_and_stays_within_bounds(
    here: int, chosen: int, past: list[tuple[float, int]], max_step: float, down_s: float, up_s: float
) -> None:
    made = step(
        plan(here, chosen), past, maxStep=max_step, down={"stabilization": down_s}, up={"stabilization": up_s}
    )
    assert made.from_bytes == here * MI
    if made.action == "hold":
        assert made.to_bytes == made.from_bytes
        return
    assert (made.action == "grow") == (made.to_bytes > made.from_bytes)
    if CAPACITY.min <= here * MI <= CAPACITY.max:
        lowest, highest = sorted((here * MI, chosen * MI))
        assert lowest <= made.to_bytes <= highest
        assert abs(made.to_bytes - made.from_bytes) <= max(here * MI * max_step, CAPACITY.step)
    else:
        bound = CAPACITY.min if here * MI < CAPACITY.min else CAPACITY.max
        assert CAPACITY.min <= made.to_bytes <= CAPACITY.max or abs(made.to_bytes - bound) < abs(
            here * MI - bound
        )
