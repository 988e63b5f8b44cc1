"""When a plan is searched for anew: when what it depends on has moved, and only then."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from kvtide_operator.api.manifest import Manifest, load_manifest
from kvtide_operator.api.status import DecisionStatus, TieredCacheStatus
from kvtide_operator.decide.steps import Target
from kvtide_operator.loop import SEARCH_EVERY_S, Loop, Place
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.plan.proposal import Demand, Heard
from kvtide_operator.planner.process import Planner
from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.world.nodes import NodeState, World

DEMO = Path(__file__).parents[2] / "operator/src/kvtide_operator/cli/demo.yaml"
CURVE = HitCurve(np.array([100, 1000]), np.array([0.3, 0.6]))


class OneNode:
    """Looks at a node that is always the same."""

    begun = 0

    def begin_anew(self) -> None:
        self.begun += 1

    async def look(self, now_s: float) -> tuple[World, tuple[()]]:
        return World(now_s, (NodeState("node-0", 1 << 30, 0, 0, 0, 1 << 31),)), ()


class CountingPlanner:
    """Always the same demand; finds no plan, and counts how often it is asked for one."""

    lives = 1

    def __init__(self) -> None:
        self.demand = Demand(1000, 8000, 3600.0, False, CURVE, None)
        self.searches = 0
        self.checks = 0
        self.reason: str | None = None

    async def check(self, _: Manifest) -> str | None:
        self.checks += 1
        return self.reason

    async def take_in(self, *_: Any) -> Heard:
        return Heard(self.demand)

    async def search(self, *_: Any) -> None:
        self.searches += 1


class FixedPlace:
    """Holds what it holds."""

    target = Target(1 << 30)
    ssd_class = None
    decisions: Sequence[DecisionStatus] = ()
    approved = False

    async def act(self, *_: Any) -> tuple[()]:
        return ()


class Planned:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.planner = CountingPlanner()
        manifest = load_manifest(DEMO)
        self.loop = Loop(
            key="chat",
            manifest=manifest,
            observer=cast(NodeObserver, OneNode()),
            place=cast(Place, FixedPlace()),
            planner=cast(Planner, self.planner),
            clock=lambda: self.now_s,
        )

    async def searches_in_a_round(self) -> int:
        before = self.planner.searches
        self.now_s += 60
        await self.loop.run_once()
        return self.planner.searches - before


@pytest.fixture
async def planned() -> Planned:
    planned = Planned()
    assert await planned.searches_in_a_round() == 1
    assert await planned.searches_in_a_round() == 0
    return planned


def changed(manifest: Manifest, **update: Any) -> Manifest:
    return replace(manifest, cache=manifest.cache.model_copy(update=update))


async def test_a_status_that_was_written_is_no_reason(planned: Planned) -> None:
    manifest = planned.loop.manifest
    metadata = manifest.cache.metadata.model_copy(update={"generation": 7})
    planned.loop.manifest = changed(manifest, status=TieredCacheStatus(hit_ratio=0.5), metadata=metadata)
    assert await planned.searches_in_a_round() == 0


async def test_an_edited_spec_is(planned: Planned) -> None:
    spec = planned.loop.manifest.cache.spec
    objective = spec.objective.model_copy(update={"prefer": "Latency"})
    edited = spec.model_copy(update={"objective": objective})
    planned.loop.manifest = changed(planned.loop.manifest, spec=edited)
    assert await planned.searches_in_a_round() == 1
    assert await planned.searches_in_a_round() == 0


async def test_a_curve_that_has_moved_is(planned: Planned) -> None:
    moved = HitCurve(CURVE.capacity_blocks, CURVE.hit_ratio + 0.1)
    planned.planner.demand = replace(planned.planner.demand, curve=moved)
    assert await planned.searches_in_a_round() == 1
    assert await planned.searches_in_a_round() == 0


async def test_an_hour_is(planned: Planned) -> None:
    planned.now_s += SEARCH_EVERY_S
    assert await planned.searches_in_a_round() == 1


async def test_what_cannot_be_planned_is_said_before_any_load_comes_and_asked_again_until_it_can() -> None:
    planned = Planned()
    planned.planner.reason = "model 'mine' is not known"
    for _ in range(2):
        planned.now_s += 60
        done = await planned.loop.run_once()
        assert done.notes == ("cannot plan: model 'mine' is not known",)
        assert done.verdict.reason == "cannot plan: model 'mine' is not known"
        assert (done.demand, done.plan, planned.planner.searches) == (None, None, 0)
    begun = cast(OneNode, planned.loop.observer).begun
    assert begun == 3, "what the nodes told meanwhile is to be told again"
    planned.planner.reason = None
    assert await planned.searches_in_a_round() == 1
    assert await planned.searches_in_a_round() == 0
    assert planned.planner.checks == 3, "what can be planned is asked about once"
