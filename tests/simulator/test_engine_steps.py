"""The engine against one that plays every single step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.simulate.batch import idle_batch
from kvtide_operator.simulate.cache.channel import idle_channel
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.cache.ssd import empty_ssd
from kvtide_operator.simulate.engine.step_times import decode_attention_s, linear_s
from kvtide_operator.simulate.requests import requests_of
from kvtide_operator.simulate.simulation import Simulation, Transfers, serve

MAX_SEQUENCES, CHUNK_TOKENS = 3, 64


def fits(requests, request, admitted, now_s, profile):
    kv_tokens = sum(requests[r][1] + requests[r][2] for r in [*admitted, request])
    has_room = len(admitted) < MAX_SEQUENCES and kv_tokens <= profile.kv_capacity_tokens
    return requests[request][0] <= now_s and has_room


def step_by_step(requests, profile):
    """First token and finish of each request, without any cache, as a loop over all steps."""
    waiting, running, first_s, finish_s = list(range(len(requests))), {}, {}, {}
    half_done: list[list[int]] = []
    now_s = 0.0
    while waiting or running or half_done:
        room = CHUNK_TOKENS - len(running)
        prefilled, new = [], 0
        while room > 0:
            if not half_done:
                if not waiting or not fits(requests, waiting[0], [*running, *prefilled], now_s, profile):
                    break
                half_done.append([waiting[0], requests[waiting.pop(0)][1]])
            tokens = min(room, half_done[0][1])
            half_done[0][1] -= tokens
            room -= tokens
            new += tokens
            if half_done[0][1] == 0:
                prefilled.append(half_done.pop()[0])
        if not new and not running:
            now_s = requests[waiting[0]][0]
            continue
        now_s += linear_s(profile.tables, new + len(running))
        if running:
            mean = sum(requests[r][1] + made - 1 for r, made in running.items()) / len(running)
            now_s += decode_attention_s(profile.tables, len(running), mean)
        for request in running:
            running[request] += 1
        for request in prefilled:
            first_s[request] = now_s
            running[request] = 1
        for request in [r for r, made in running.items() if made >= requests[r][2]]:
            finish_s[request] = now_s
            del running[request]
    return [first_s[r] for r in range(len(requests))], [finish_s[r] for r in range(len(requests))]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=12)
)
def test_runs_of_steps_end_when_their_steps_do(make_trace, make_profile, asked):
    # Arrivals at odd fractions of a millisecond never fall on the end of a step.
    asked = sorted((0.0 if i == 0 else at + 0.000371 * (i + 1), n, m) for i, (at, n, m) in enumerate(asked))
    asked[0] = (0.0, *asked[0][1:])
    requests = [(at / 100, n, m, []) for at, n, m in asked]
    profile = make_profile(1e-3, 1e-6, kv_tokens=500)
    played = requests_of(make_trace(requests), "mooncake")
    run = Simulation(
        requests=played,
        batch=idle_batch(played, profile, 1, CHUNK_TOKENS, MAX_SEQUENCES),
        pool=empty_pool(played, 1, 0, 0, "writeThrough", "roundRobin"),
        ssd=empty_ssd(np.zeros(0, dtype=np.int8), (0.0,), "always", 1),
        channel=idle_channel(0, shared=True),
        transfers=Transfers(0.0, 0.0, 0.0, 0.0, 0.0),
        coupled=True,
        has_ssd=False,
        loads_async=False,
        while_queued=False,
    )
    serve(run)
    first_s, finish_s = step_by_step(requests, profile)
    assert played.row.first_token_s == pytest.approx(first_s, abs=1e-9)
    assert played.row.finish_s == pytest.approx(finish_s, abs=1e-9)
