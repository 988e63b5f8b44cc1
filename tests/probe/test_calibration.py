"""Calibrating an engine whose times are known."""

import pytest

from kvtide_operator.cli.engine.calibrate import profile_file
from kvtide_operator.probe.calibration import calibrate
from kvtide_operator.probe.engine import Engine, EngineError
from kvtide_operator.simulate.engine.fit import fit_steps
from kvtide_operator.simulate.engine.profile import parse_profile
from kvtide_operator.simulate.engine.tabulate import to_json

from .conftest import BLOCK_TOKENS, CHUNK_TOKENS, step_s


async def calibrated(url, seconds=6.0):
    shown = []
    async with await Engine.open(url) as engine:
        found = await calibrate(
            engine,
            seconds=seconds,
            chunk_tokens=CHUNK_TOKENS,
            seed=1,
            progress=lambda share, what: shown.append((share, what)),
        )
        return found, shown, await profile_file(engine, fit_steps(found.samples), "cpu", 1)


def as_the_engine_says(found):
    """Prefills take the known times; answers are made in real time, which a busy machine lengthens."""
    prefills = [sample for sample in found.samples if not sample.steps[0].batch]
    assert len(prefills) >= 10  # one sweep; whether there is time for more, the machine decides
    for sample in prefills:
        known_s = sum(step_s(step.new, step.cached, 0) for step in sample.steps)
        assert sample.seconds == pytest.approx(known_s, rel=1e-6)


async def test_the_engines_prefill_times_are_found(stand_in):
    found, shown, file = await calibrated(stand_in.url)
    as_the_engine_says(found)
    assert any(sample.steps[0].cached for sample in found.samples)
    assert {sample.steps[0].batch for sample in found.samples} == {0, 1, 2, 4}
    assert all(0 <= share <= 1 for share, _ in shown)
    profile = parse_profile(to_json(file), "file")
    assert (profile.kv_capacity_tokens, profile.layers) == (100 * BLOCK_TOKENS, 30)
    assert (profile.engine_version, profile.system) == ("0.32.0", "cpu")


async def test_an_engine_that_caches_nothing_is_measured_too(stand_in):
    stand_in.caches = False
    found, _, _ = await calibrated(stand_in.url, 3.0)
    assert not any(sample.steps[0].cached for sample in found.samples)
    as_the_engine_says(found)


async def test_an_engine_that_serves_others_is_refused(stand_in):
    stand_in.running = 3
    with pytest.raises(EngineError, match="serves 3 requests; calibrate an engine that is idle"):
        await calibrated(stand_in.url)


async def test_an_engine_without_vllms_metrics_is_refused(stand_in):
    stand_in.exposes = False
    with pytest.raises(EngineError, match="calibration needs vLLM's metrics"):
        await calibrated(stand_in.url)


async def test_another_model_than_the_one_served_is_refused(stand_in):
    with pytest.raises(EngineError, match=r"does not serve large \(it serves toy\); name one with --model"):
        await Engine.open(stand_in.url, "large")
