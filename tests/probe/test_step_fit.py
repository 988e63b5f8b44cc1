"""Step times are found again in what they add up to."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.simulate.engine.fit import (
    FitError,
    Sample,
    Step,
    StepFit,
    chunks,
    fit_steps,
    slower,
    tables_of,
)
from kvtide_operator.simulate.engine.profile import FORMAT, EngineProfile, ProfileFile, parse_profile
from kvtide_operator.simulate.engine.step_times import decode_step_s, prefill_chunk_s

CHUNK_TOKENS = 256
PROMPTS = [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
BATCHES = [1, 2, 4, 8]


def true_s(step: Step, fixed: float, token: float, pair: float, context: float) -> float:
    attended = step.new * (step.cached + (step.new + 1) / 2)
    read = (step.cached if step.new else 0) + step.batch * step.context
    return fixed + token * (step.new + step.batch) + pair * attended + context * read


def work() -> list[tuple[Step, ...]]:
    prompts = [chunks(n, 0, CHUNK_TOKENS) for n in PROMPTS]
    prompts += [chunks(48, cached, CHUNK_TOKENS) for cached in (512, 1920)]
    return prompts + [(Step(batch=b, context=c),) for b in BATCHES for c in (20.0, 900.0)]


def samples(*truth: float, noise: float = 0.0, seed: int = 0) -> list[Sample]:
    chance = np.random.default_rng(seed)
    return [
        Sample(steps, sum(true_s(step, *truth) for step in steps) * (1 + noise * chance.uniform(-1, 1)))
        for steps in work()
        for _ in range(3)
    ]


def written(fit: StepFit) -> ProfileFile:
    linear, prefill, decode = tables_of(fit)
    return ProfileFile(
        format=FORMAT, model="toy", system="toy", engine="vllm", engine_version="0", gpus=1, parallelism={},
        layers=1, kv_capacity_tokens=1000, source="test", date="2026-11-21", largest_correction=0.0,
        linear=linear, prefill_attention=prefill, decode_attention=decode,
    )  # fmt: skip


def read_back(file: ProfileFile) -> EngineProfile:
    return parse_profile(msgspec.json.encode(file), "the fit")


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1e-1), st.floats(1e-6, 1e-3), st.floats(0, 1e-6), st.floats(0, 1e-6))
def test_exact_measurements_give_the_times_back(fixed, token, pair, context):
    fit = fit_steps(samples(fixed, token, pair, context))
    assert fit.worst_error < 1e-6
    unseen = (Step(new=100, cached=700), Step(new=200, batch=4, context=300.0), Step(batch=6, context=500.0))
    for step in unseen:
        assert fit.seconds([step]) == pytest.approx(true_s(step, fixed, token, pair, context), rel=1e-4)


def test_a_chunk_after_cached_tokens_is_known_from_prompts_that_nothing_of_was_cached():
    truth = (0.02, 2e-3, 8e-7, 4e-6)
    full = [sample for sample in samples(*truth, noise=0.02) if sample.steps[0].cached == 0]
    fit = fit_steps(full)
    for step in (Step(new=16, cached=512), Step(new=100, cached=384), Step(new=208, cached=512)):
        assert fit.seconds([step]) == pytest.approx(true_s(step, *truth), rel=0.05)


def test_the_file_gives_the_times_of_the_fit():
    truth = (0.02, 2e-3, 2e-7, 1e-6)
    tables = read_back(written(fit_steps(samples(*truth)))).tables
    for new, cached in ((1, 0), (100, 0), (256, 0), (256, 1000), (3000, 0), (777, 5000)):
        seconds = true_s(Step(new=new, cached=cached), *truth)
        assert prefill_chunk_s(tables, float(new), float(cached)) == pytest.approx(seconds, rel=0.01)
    for batch, context in ((1, 30), (3, 100), (8, 2000), (100, 4000)):
        seconds = true_s(Step(batch=batch, context=context), *truth)
        assert decode_step_s(tables, float(batch), float(context)) == pytest.approx(seconds, rel=0.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_noise_of_five_per_cent_moves_no_step_by_more(seed):
    truth = (0.02, 2e-3, 2e-7, 1e-6)
    fit = fit_steps(samples(*truth, noise=0.05, seed=seed))
    assert fit.mean_error < 0.05
    for step in (Step(new=256), Step(new=256, cached=1024), Step(batch=1, context=100.0)):
        assert fit.seconds([step]) == pytest.approx(true_s(step, *truth), rel=0.06)


def test_times_never_fall_with_more_work():
    truth = (0.02, 2e-3, 0.0, 0.0)
    fit = fit_steps(samples(*truth, noise=0.3, seed=3))
    assert np.all(np.diff(fit.linear_s) >= 0)
    read_back(written(fit))  # which refuses a table that falls


def test_an_outlier_does_not_count():
    truth = (0.02, 2e-3, 0.0, 0.0)
    measured = samples(*truth)
    late = Sample(measured[0].steps, 50.0)
    assert fit_steps([late, *measured]).worst_error < 1e-6


def test_too_little_is_said():
    with pytest.raises(FitError, match=r"1 different amounts of work.*give it more time"):
        fit_steps([Sample(chunks(100, 0, 256), 0.1)] * 20)


def test_a_prompt_is_cut_into_chunks():
    assert chunks(600, 128, 256) == (Step(256, 128), Step(256, 384), Step(88, 640))


def test_a_slower_profile_takes_longer_for_everything():
    file = written(fit_steps(samples(0.02, 2e-3, 2e-7, 1e-6)))
    before, after = read_back(file).tables, read_back(slower(file, 1.25)).tables
    for new, cached in ((1.0, 0.0), (256.0, 1000.0), (3000.0, 500.0)):
        expected = 1.25 * prefill_chunk_s(before, new, cached)
        assert prefill_chunk_s(after, new, cached) == pytest.approx(expected, rel=1e-3)
    assert decode_step_s(after, 8.0, 900.0) == pytest.approx(
        1.25 * decode_step_s(before, 8.0, 900.0), rel=1e-3
    )
