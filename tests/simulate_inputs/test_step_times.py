"""Interpolation of step times: exact at the points, monotone everywhere, equal to an independent one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvtide_operator.simulate.engine.profile import monotone
from kvtide_operator.simulate.engine.profiles import shipped
from kvtide_operator.simulate.engine.step_times import (
    FAR_TOKENS,
    Curve,
    StepTables,
    Surface,
    decode_attention_s,
    decode_step_s,
    linear_s,
    prefill_attention_s,
    prefill_chunk_s,
    step_of_chunks_s,
    step_s,
    step_tables,
)

SHIPPED = shipped()
some_profile = st.sampled_from(sorted(SHIPPED))
tokens = st.integers(1, 300_000)


def rising(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    values = rng.uniform(0, 1, shape)
    for axis in range(len(shape)):
        values = np.cumsum(values, axis=axis)
    return values


def axis(rng: np.random.Generator, points: int, first: float) -> NDArray[np.float64]:
    rest = np.sort(rng.choice(np.arange(1, 200_000), points - 1, replace=False))
    return np.concatenate([[first], rest + first]).astype(np.float64)


def random_tables(seed: int) -> tuple[Curve, Surface, Surface]:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 30, 2)
    return (
        Curve(axis(rng, int(m), 1), rising(rng, int(m))),
        Surface(axis(rng, int(m), 1), axis(rng, int(n), 0), rising(rng, int(m), int(n))),
        Surface(axis(rng, int(n), 1), axis(rng, int(m), 1), rising(rng, int(n), int(m))),
    )


def reference(surface: Surface, row: float, column: float) -> float:
    """Bilinear interpolation by np.interp, inside the table only."""
    at_column = [float(np.interp(column, surface.columns, values)) for values in surface.seconds]
    return float(np.interp(row, surface.rows, at_column))


@pytest.mark.parametrize("seed", range(20))
def test_every_point_of_a_table_comes_back_exactly(seed: int) -> None:
    linear, prefill, decode = random_tables(seed)
    tables = step_tables(linear, prefill, decode)
    for value, seconds in zip(*linear, strict=True):
        assert linear_s(tables, value) == pytest.approx(seconds, rel=1e-14)
    for function, surface in ((prefill_attention_s, prefill), (decode_attention_s, decode)):
        for i, row in enumerate(surface.rows):
            for j, column in enumerate(surface.columns):
                assert function(tables, row, column) == pytest.approx(surface.seconds[i, j], rel=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_between_points_it_is_bilinear(seed: int) -> None:
    linear, prefill, decode = random_tables(seed)
    tables = step_tables(linear, prefill, decode)
    rng = np.random.default_rng(seed)
    for x, y in rng.uniform(0, 1, (300, 2)) ** 3:
        value = linear.axis[0] + x * (linear.axis[-1] - linear.axis[0])
        assert linear_s(tables, value) == pytest.approx(np.interp(value, *linear), rel=1e-12)
        for function, surface in ((prefill_attention_s, prefill), (decode_attention_s, decode)):
            row = surface.rows[0] + x * (surface.rows[-1] - surface.rows[0])
            column = surface.columns[0] + y * (surface.columns[-1] - surface.columns[0])
            assert function(tables, row, column) == pytest.approx(reference(surface, row, column), rel=1e-12)


def small_tables() -> StepTables:
    surface = Surface(np.array([1.0, 2.0]), np.array([0.0, 10.0]), np.array([[1.0, 2.0], [3.0, 5.0]]))
    return step_tables(Curve(np.array([1.0, 3.0]), np.array([1.0, 2.0])), surface, surface)


def test_below_the_table_it_is_constant_and_beyond_it_the_last_slope_goes_on() -> None:
    tables = small_tables()
    assert linear_s(tables, 0.25) == 1.0
    assert linear_s(tables, 5.0) == pytest.approx(3.0)
    assert prefill_attention_s(tables, 2.0, 30.0) == pytest.approx(9.0)
    assert prefill_attention_s(tables, 4.0, 0.0) == pytest.approx(7.0, rel=1e-6)
    assert linear_s(tables, 10 * FAR_TOKENS) == linear_s(tables, FAR_TOKENS)


def test_a_mixed_step_adds_the_tokens_before_it_looks_them_up() -> None:
    tables = small_tables()
    # linear(1 + 2) = 2, prefill attention of 1 new on 10 cached = 2, decode attention of 2 on 10 = 5
    assert step_s(tables, 1.0, 10.0, 2.0, 10.0) == pytest.approx(9.0)
    assert prefill_chunk_s(tables, 1.0, 10.0) == pytest.approx(3.0)
    assert decode_step_s(tables, 2.0, 10.0) == pytest.approx(6.5)
    assert step_s(tables, 0.0, 0.0, 0.0, 0.0) == 0.0


def test_a_step_of_several_chunks_launches_its_kernels_once() -> None:
    tables = small_tables()
    # linear(2 + 1 + 2) = 3, attention of chunks of 2 and 1 new = 3 + 1 less one launch = 1, decode = 5
    assert step_of_chunks_s(tables, 3.0, 4.0, 2, 2.0, 10.0) == pytest.approx(3.0 + 4.0 - 1.0 + 5.0)
    assert step_of_chunks_s(tables, 1.0, 2.0, 1, 2.0, 10.0) == step_s(tables, 1.0, 10.0, 2.0, 10.0)


@settings(deadline=None)
@given(some_profile, tokens, tokens, st.integers(0, 2000), tokens, st.integers(0, 3), st.integers(1, 100_000))
def test_more_work_never_takes_less_time(
    name: str, new: int, cached: int, batch: int, context: int, which: int, more: int
) -> None:
    work = [float(new), float(cached), float(batch), float(context)]
    before = step_s(SHIPPED[name].tables, *work)
    work[which] += more
    assert step_s(SHIPPED[name].tables, *work) >= before * (1 - 1e-12) > 0


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_noise_is_smoothed_into_the_nearest_monotone_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 9, 2))
    noisy = rng.uniform(0, 1, shape)
    clean = monotone(noisy)
    assert (np.diff(clean, axis=0) >= 0).all()
    assert (np.diff(clean, axis=1) >= 0).all()
    # No monotone table is nearer than half of the largest fall between comparable places.
    places = np.ndindex(shape)
    fall = max(noisy[i, j] - noisy[i:, j:].min() for i, j in places)
    assert np.abs(clean - noisy).max() == pytest.approx(fall / 2)
    assert (monotone(clean) == clean).all()
