"""`profile: {source: Measured}` from the manifest to the plan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from kvtide_operator.api.manifest import ManifestError, load_manifest
from kvtide_operator.decide.steps import Target
from kvtide_operator.loop import Loop
from kvtide_operator.plan.proposal import Demand, Heard
from kvtide_operator.planner.scenario import declared, engine_profile
from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.simulate.engine.pace import Pace
from kvtide_operator.simulate.engine.step_times import decode_step_s, prefill_chunk_s
from kvtide_operator.world.metrics import Missing, Value
from kvtide_operator.world.nodes import NodeState, World

from .test_pace import NOW_S, WINDOW_S, seen

ROOT = Path(__file__).parents[2]
BASE = {"source": "Catalogue", "system": "h100_sxm"}
PACE = Pace(1500.0, 500.0, 100.0, 8.0, 0.4, 0.05)


@pytest.fixture
def load(tmp_path):
    def load(**profile):
        document = yaml.safe_load((ROOT / "samples/vllm-small.yaml").read_text())
        document["spec"]["engine"]["profile"] = profile
        document["spec"]["model"]["name"] = "meta-llama/Llama-3.1-8B"
        path = tmp_path / "cache.yaml"
        path.write_text(yaml.safe_dump(document) + "---\n" + (ROOT / "samples/tierclasses.yaml").read_text())
        return load_manifest(path)

    return load


def test_the_base_counts_until_something_is_measured(load):
    tables = engine_profile(load(source="Measured", base=BASE)).tables
    assert prefill_chunk_s(tables, 1000.0, 0.0) == prefill_chunk_s(
        engine_profile(load(**BASE)).tables, 1000.0, 0.0
    )


def test_what_is_measured_counts(load):
    profile = declared(load(source="Measured", base=BASE), PACE)["profile"]
    assert decode_step_s(profile.tables, 8.0, PACE.context_tokens) == pytest.approx(0.05, rel=0.05)


def test_a_declared_profile_is_left_as_it_is(load):
    profile = declared(load(**BASE), PACE)["profile"]
    assert profile is declared(load(**BASE))["profile"]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"source": "Measured"}, r"base: Field required"),
        ({"source": "Measured", "base": {"source": "Measured", "base": BASE}}, r"'Catalogue', 'Table'"),
        ({"source": "Measured", "base": BASE, "system": "h100_sxm"}, r"system"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(load, profile, said):
    with pytest.raises(ManifestError, match=said):
        load(**profile)


class Engines:
    def __init__(self):
        self.now = seen(1.0, 0.05, 0.01)

    async def read(self, *_):
        return self.now


class Remembering:
    """A planner that remembers the paces it was asked to plan for."""

    lives = 1

    def __init__(self, curve):
        self.demand = Demand(1000, 8000, WINDOW_S, False, curve, None)
        self.paces = []

    async def check(self, _):
        return None

    async def take_in(self, *_):
        return Heard(self.demand)

    async def search(self, *arguments):
        self.paces.append(arguments[-1])


class OneNode:
    def begin_anew(self):
        pass

    async def look(self, now_s):
        return World(now_s, (NodeState("node-0", 1 << 30, 0, 0, 0, 1 << 31),)), ()


class Place:
    ssd_class = None
    decisions = ()
    approved = False

    def __init__(self, target):
        self.target = target

    async def act(self, *_):
        return ()


@pytest.fixture
def loop(load):

    manifest = load(source="Measured", base=BASE)
    curve = HitCurve(np.array([100, 1000]), np.array([0.3, 0.6]))
    return Loop(
        key="chat",
        manifest=manifest,
        observer=OneNode(),
        place=Place(Target(1 << 30)),
        planner=Remembering(curve),
        metrics=Engines(),
        clock=lambda: NOW_S,
    )


async def test_a_plan_is_made_for_the_pace_and_anew_when_it_moves(loop):
    await loop.run_once()
    await loop.run_once()
    assert [round(pace.decode_step_s, 6) for pace in loop.planner.paces] == [0.01]
    loop.metrics.now = seen(1.0, 0.05, 0.012)
    await loop.run_once()
    assert [round(pace.decode_step_s, 6) for pace in loop.planner.paces] == [0.01, 0.012]


async def test_while_nothing_is_measured_the_round_says_so(loop):
    loop.metrics.now = replace(loop.metrics.now, inter_token_mean_s=Missing("no engine exposes it"))
    done = await loop.run_once()
    assert loop.planner.paces == [None]
    assert "the engine profile's base counts: inter_token_mean_s cannot be read" in done.notes


async def test_what_was_measured_stays_while_metrics_fail(loop):
    await loop.run_once()
    loop.metrics.now = replace(loop.metrics.now, requests_per_s=Value(NOW_S, 0.0))
    await loop.run_once()
    assert len(loop.planner.paces) == 1
    loop.planner.demand = replace(loop.planner.demand, blocks=16000)
    await loop.run_once()
    assert loop.planner.paces[1] == loop.planner.paces[0]
