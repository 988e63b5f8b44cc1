"""Generated traces: deterministic, consistent, and calibrated to the published statistics."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.profiles import PROFILES, LogNormal, ProfileName
from kvtide_operator.workload.reuse import Reuse, measure_reuse
from kvtide_operator.workload.sessions import Load, Shape, Turns, draw_turns
from kvtide_operator.workload.trace import Trace, TraceError

TWO_HOURS_S = 7200.0


@cache
def reuse_of(profile: ProfileName) -> Reuse:
    return measure_reuse(generate(profile=profile, duration_s=TWO_HOURS_S, block_tokens=16, seed=7))


def share_of_reuse(reuse: Reuse, blocks: float) -> float:
    """The share of all reuses that the most reused blocks, this share of the unique ones, give."""
    falling = np.sort(reuse.reuses)[::-1]
    return float(falling[: round(blocks * len(falling))].sum() / falling.sum())


@cache
def chat_turns() -> Turns:
    chat = PROFILES["chat"]
    return draw_turns(chat, Load("flat", 1, 1), chat.rate_per_s, TWO_HOURS_S, np.random.default_rng(7))


# Published: "KVCache in the wild" (ATC'25), its traces A (chat) and B (api), each of two hours; the share of
# blocks that gives 90 % of the hits is from Kareto's description of trace B.
CALIBRATION: list[tuple[ProfileName, str, float, float, Callable[[Reuse], float]]] = [
    ("chat", "ideal hit ratio", 0.62, 0.02, lambda r: r.infinite_hit_ratio),
    ("chat", "reuse given by 10 % of blocks", 0.77, 0.02, lambda r: share_of_reuse(r, 0.1)),
    ("chat", "reuse within 10 min", 0.80, 0.03, lambda r: float((r.gap_s <= 600).mean())),
    ("chat", "blocks dead after 612 s", 0.90, 0.05, lambda r: float((r.lifespan_s <= 612).mean())),
    ("api", "ideal hit ratio", 0.54, 0.02, lambda r: r.infinite_hit_ratio),
    ("api", "reuse within 10 s", 0.80, 0.03, lambda r: float((r.gap_s <= 10).mean())),
    ("api", "blocks dead after 0.3 s", 0.90, 0.02, lambda r: float((r.lifespan_s <= 0.3).mean())),
    ("api", "blocks that give 90 % of hits", 0.0067, 0.002, lambda r: r.top_share(0.9)),
]


@pytest.mark.parametrize(
    ("profile", "published", "tolerance", "generated"),
    [pytest.param(profile, *rest, id=f"{profile}: {what}") for profile, what, *rest in CALIBRATION],
)
def test_the_published_statistics(
    profile: ProfileName, published: float, tolerance: float, generated: Callable[[Reuse], float]
) -> None:
    assert generated(reuse_of(profile)) == pytest.approx(published, abs=tolerance)


def test_the_published_prompt_lengths_of_chat() -> None:
    turns = chat_turns()
    assert turns.input_tokens[turns.alone].mean() == pytest.approx(973, rel=0.05)
    assert turns.input_tokens[~turns.alone].mean() == pytest.approx(5_953, rel=0.08)


def test_the_rate_is_steady_from_the_start() -> None:
    per_quarter, _ = np.histogram(chat_turns().arrival_s, bins=4, range=(0, TWO_HOURS_S))
    assert per_quarter / (TWO_HOURS_S / 4) == pytest.approx(np.full(4, PROFILES["chat"].rate_per_s), rel=0.05)


@given(
    st.sampled_from(["chat", "api"]),
    st.sampled_from(["flat", "hill", "day"]),
    st.integers(1, 300),
    st.sampled_from([1, 16, 100, 512]),
    st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_every_trace_is_consistent(
    profile: ProfileName, shape: Shape, requests: int, block_tokens: int, seed: int
) -> None:
    trace = generate(profile=profile, requests=requests, shape=shape, block_tokens=block_tokens, seed=seed)
    assert trace.requests == requests
    assert trace.arrival_s[0] == 0
    assert np.all(np.diff(trace.arrival_s) >= 0)
    assert np.array_equal(np.diff(trace.block_start), -(-trace.input_tokens // block_tokens))
    assert np.array_equal(np.unique(trace.blocks), np.arange(trace.unique_blocks))
    assert_equal_ids_mean_equal_prefixes(trace)


def assert_equal_ids_mean_equal_prefixes(trace: Trace) -> None:
    before = np.concatenate(([-1], trace.blocks[:-1]))
    before[trace.block_start[:-1]] = -1
    first_seen = np.unique(trace.blocks, return_index=True)[1]
    assert np.array_equal(before, before[first_seen][trace.blocks])


def test_a_partial_last_block_is_nobody_elses() -> None:
    trace = generate(requests=2000, block_tokens=16)
    partial = trace.input_tokens % 16 > 0
    last = trace.blocks[trace.block_start[1:] - 1][partial]
    assert np.all(np.bincount(trace.blocks)[last] == 1)


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    one, same, other = (generate(requests=500, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.blocks, same.blocks)
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)


def test_a_hill_rises_to_its_peak_and_falls_again() -> None:
    trace = generate(profile="api", duration_s=1000, shape="hill", peak=5, rate_per_s=20)
    counts, _ = np.histogram(trace.arrival_s, bins=10, range=(0, 1000))
    rates = counts / 100
    assert rates[0] == pytest.approx(20, rel=0.25)
    assert rates[4:6] == pytest.approx(np.full(2, 100), rel=0.1)
    assert rates[9] == pytest.approx(20, rel=0.35)
    assert np.all(np.diff(rates[:5]) > 0)
    assert np.all(np.diff(rates[5:]) < 0)


def test_a_hills_working_set_grows_and_shrinks() -> None:
    trace = generate(duration_s=3600, shape="hill", peak=6, rate_per_s=1)
    of_request = np.repeat(trace.arrival_s, np.diff(trace.block_start))
    used = [
        len(np.unique(trace.blocks[(of_request >= at) & (of_request < at + 600)])) for at in (0, 1500, 3000)
    ]
    assert used[1] > 2 * used[0]
    assert used[1] > 2 * used[2]


def test_a_day_repeats() -> None:
    load = Load("day", 3, 86_400)
    at_s = np.array([0.0, 43_200.0, 86_400.0, 129_600.0])
    assert load.factor(at_s) == pytest.approx(np.array([1, 3, 1, 3]))


def test_as_many_requests_as_asked_in_the_time_their_rate_takes() -> None:
    trace = generate(requests=5000, rate_per_s=10, seed=2)
    assert trace.requests == 5000
    assert trace.span_s == pytest.approx(500, rel=0.06)


def test_log_normals_have_their_mean() -> None:
    quantity = LogNormal(100, 0.8)
    assert quantity.draw(200_000, np.random.default_rng(1)).mean() == pytest.approx(100, rel=0.02)
    assert quantity.spread(100).mean() == pytest.approx(100, rel=0.05)
    assert quantity.spread(1000)[:50].mean() == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either the number of requests or the duration"),
        ({"requests": 1, "duration_s": 1.0}, "either the number of requests or the duration"),
        ({"requests": 0}, "0 requests are out of range"),
        ({"requests": 3_000_000}, "3,000,000 requests are out of range"),
        ({"requests": 1_500_000, "block_tokens": 1, "profile": "api"}, "blocks are out of range"),
        ({"requests": 1, "rate_per_s": 0.0}, "a rate of 0 requests"),
        ({"requests": 1, "rate_per_s": float("nan")}, "a rate of nan requests"),
        ({"requests": 1, "peak": 0.5, "shape": "hill"}, "a peak of 0.5"),
        ({"requests": 1, "block_tokens": 0}, "0 tokens in a block"),
        ({"duration_s": -1.0}, "a duration of -1 s"),
    ],
)
def test_what_is_out_of_range_is_said(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        generate(**arguments)  # type: ignore[arg-type]  # any combination of arguments is tried
