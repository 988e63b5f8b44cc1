"""Any call of a round fails in any way: status, an Event and a metric say it, and the next round recovers."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.process.test_pass_failures import FAULTS, NO_FAULT
from tests.process.turn import KEY, Turn
from tests.status.conftest import Simulated

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.api.status import DecisionStatus, Sizes
from kvtide_operator.decide.policy import Verdict
from kvtide_operator.decide.steps import Target
from kvtide_operator.loop import Round
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Demand, Plan
from kvtide_operator.planner.process import PlannerLostError
from kvtide_operator.process import Surroundings
from kvtide_operator.reconcile.controller import Controller
from kvtide_operator.reconcile.turns import Turns
from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.world.nodes import World

MIB = 1 << 20
METRICS = {
    "prometheus": {
        "url": "http://prometheus:9090",
        "authSecretRef": {"name": "token", "key": "token"},
        "caSecretRef": {"name": "authority", "key": "ca.crt"},
    },
    "selector": {"model_name": "m"},
}


def done() -> Round:
    """A round that found a better size."""
    chosen = Candidate(Configuration(128 * MIB), Simulated())
    here = Candidate(Configuration(64 * MIB), Simulated(storage_cost_per_hour=2.0))
    target = Target(64 * MIB)
    sizes = Sizes(dram=64 * MIB)
    return Round(
        number=1,
        world=World(0.0, ()),
        metrics=None,
        demand=Demand(100, 1000, 3600.0, False, HitCurve(np.array([1, 2]), np.array([0.1, 0.2])), None),
        plan=Plan((chosen,), chosen, True, here, 0.2, 9, "it costs less"),
        noise=None,
        verdict=Verdict("Hold", target, None, target, (), "it waits"),
        decision=DecisionStatus(time=0.0, action="Hold", before=sizes, after=sizes, reason="it waits"),
        resized=(),
        storage_cost_per_hour=1.0,
        steps_s={},
        notes=(),
    )


class Planned:
    """A loop whose planning is done already, or fails."""

    def __init__(self, manifest: Any) -> None:
        self.manifest, self.prices, self.metrics = manifest, {"dram": None}, None
        self.error: Exception | None = None

    async def run_once(self) -> Round:
        if self.error is not None:
            raise self.error
        return done()


class RoundTurn(Turn):
    """One cache of a controller, a pass or a round at a time."""

    def __init__(self, server: Any, api: KubernetesApi) -> None:
        super().__init__(server, api)
        self.api = api
        for name, key in (("token", "token"), ("authority", "ca.crt")):
            data = {key: b64encode(b"x").decode()}
            metadata = {"name": name, "namespace": KEY.namespace}
            server.put("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    async def start(self) -> None:
        hands = self.turns.cache.hands
        around = Surroundings(
            self.api, hands.executor, hands.events, hands.store, CollectorRegistry(), "kvtide", "kvtide",
            "kvtide-operator", self.outgrown.append,
        )  # fmt: skip
        self.controller = Controller(around)
        await self.controller.start(1)
        for turns in self.controller._turns.values():  # rounds and passes are taken by hand
            for task in turns.tasks:
                task.cancel()
        self.turns = Turns(self.turns.cache, self.controller._metrics)
        self.registry = around.registry
        self.edit({"metrics": METRICS})
        await self.take()
        self.turns.loop = Planned(self.turns.cache.manifest)  # type: ignore[assignment]
        self.server.requests.clear()

    async def round(self) -> None:
        await self.controller.take_round(self.turns)
        self.calls = list(self.server.requests)
        await self.take()

    def planned(self) -> tuple[str, str]:
        (found,) = [
            one
            for one in self.server.objects["tieredcaches", *KEY]["status"]["conditions"]
            if one["type"] == "PlanCurrent"
        ]
        return found["reason"], found["message"]


@pytest.fixture
async def new_round(server: Any, new_api: Callable[..., KubernetesApi]) -> AsyncIterator[Callable[[], Any]]:
    made: list[RoundTurn] = []

    async def make() -> RoundTurn:
        server.objects.clear()
        made.append(RoundTurn(server, new_api(attempts=1)))
        await made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.turns.cache.close()
        await one.controller.stop()


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_fails_it_is_said_and_the_next_round_recovers(
    fault: str, server: Any, new_round: Callable[[], Any]
) -> None:
    turn = await new_round()
    await turn.round()
    calls = turn.calls
    assert [verb for verb, _ in calls] == ["GET", "GET", "POST"], calls
    for number, (verb, path) in enumerate(calls):
        turn = await new_round()
        server.faults.extend([*[NO_FAULT] * number, FAULTS[fault]])
        await turn.round()
        what = f"{verb} {path} with {fault}: {turn.planned()}, {turn.warnings()}"
        assert turn.failures() == 1, what
        assert [path in said for said in turn.warnings()] == [True], what
        assert turn.planned()[0] == "NoPlan", what
        assert path in turn.planned()[1], what
        await turn.round()
        assert turn.planned()[0] != "NoPlan", what
        assert len(server.of("cacheplans")) == 1, what


@pytest.mark.parametrize(
    "error",
    [
        SimulationError("no window can be simulated"),
        PlannerLostError("the planner ended"),
        OSError("a disk is full"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_planning_fails_of_is_said_and_the_next_round_recovers(
    error: Exception, server: Any, new_round: Callable[[], Any]
) -> None:
    turn = await new_round()
    turn.turns.loop.error = error
    await turn.round()
    assert turn.failures() == 1
    assert [str(error) in said for said in turn.warnings()] == [True]
    assert str(error) in turn.planned()[1]
    turn.turns.loop.error = None
    await turn.round()
    assert turn.planned()[0] != "NoPlan"


@pytest.mark.parametrize("data", [None, {}, {"token": "no base64!"}])
async def test_a_metrics_secret_without_its_key_is_said(
    server: Any, new_round: Callable[[], Any], data: Any
) -> None:
    turn = await new_round()
    live = server.objects["secrets", KEY.namespace, "token"]
    server.put("secrets", {**live, "data": data})
    await turn.round()
    assert "Secret default/token: has no readable key 'token', which spec.metrics names" in turn.planned()[1]
    assert turn.failures() == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_of_a_pass_with_a_new_plan_fails_it_is_said(
    fault: str, server: Any, new_round: Callable[[], Any]
) -> None:
    async def about_to_pass() -> RoundTurn:
        turn: RoundTurn = await new_round()
        await turn.controller.take_round(turn.turns)
        server.requests.clear()
        return turn

    await (await about_to_pass()).take()
    calls = list(server.requests)
    assert any("/cacheplans/" in path for _, path in calls), calls
    for number, (verb, path) in enumerate(calls):
        turn = await about_to_pass()
        server.faults.extend([*[NO_FAULT] * number, FAULTS[fault]])
        await turn.take()
        said = json.dumps(server.objects["tieredcaches", *KEY]["status"]) + " ".join(turn.warnings())
        harmless = (
            fault == "409" or (fault == "404" and verb == "GET") or (verb == "POST" and "/events" in path)
        )
        assert harmless or path in said, f"{verb} {path} with {fault}: {said}"
        await turn.take()
        (plan,) = server.of("cacheplans")
        assert plan["status"]["phase"] == "Proposed"
        assert turn.stalled()["status"] == "False"
