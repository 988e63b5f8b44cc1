"""Any call of a pass fails in any way: status, an Event and a metric say it, and the next pass recovers."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.process.stub_node import StubNode
from tests.process.turn import CACHE, KEY, Turn

from kvtide_operator.reconcile import access, retries
from kvtide_operator.reconcile.cache import LiveCache
from kvtide_operator.world.kinds import CLASSES, POD, STATEFUL_SET, TIER_CLASS, TIERED_CACHE

MALFORMED: tuple[int, dict[str, str]] = (200, {})
NO_FAULT: tuple[int, dict[str, str]] = (0, {})
FAULTS = {str(code): (code, {}) for code in (403, 404, 409, 422, 429, 500)} | {
    "no answer": None,
    "malformed": MALFORMED,
}


async def calls_of_a_new_cache(server: Any, turn: Turn) -> list[tuple[str, str]]:
    await turn.take()
    return list(server.requests)


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_fails_it_is_said_and_the_next_pass_recovers(
    fault: str, server: Any, new_turn: Callable[[], Turn]
) -> None:
    calls = await calls_of_a_new_cache(server, new_turn())
    assert len(calls) >= 8, calls
    for number in range(len(calls)):
        server.objects.clear()
        server.requests.clear()
        turn = new_turn()
        server.faults.extend([*[NO_FAULT] * number, FAULTS[fault]])
        await turn.take()
        server.faults.clear()
        verb, path = server.requests[number]
        what = f"{verb} {path} with {fault}: {turn.stalled()}, {turn.warnings()}"
        # A conflict is news of somebody else's write, which the next pass sees; 404 on the Secret makes one.
        harmless = fault == "409" or (fault == "404" and verb == "GET") or "/events" in path
        if not harmless:
            assert turn.failures() >= 1, what
            assert len(turn.warnings()) == 1, what
            assert path in turn.warnings()[0], what
            assert turn.stalled()["status"] == "True", what
            assert path in turn.stalled()["message"], what
        for _ in range(3):
            await turn.take()
        assert turn.stalled()["status"] == "False", what
        assert len(server.of("statefulsets")) == 1, what


async def test_an_address_that_is_not_allowed_is_said_and_sizes_are_kept(
    server: Any, new_turn: Callable[[], Turn]
) -> None:
    turn = new_turn()
    spec = CACHE["spec"] | {"history": {"url": "file:///tmp/x"}}
    turn.store.put(TIERED_CACHE, server.put("tieredcaches", CACHE | {"spec": spec}))
    await turn.take()
    (cache,) = server.of("tieredcaches")
    said = {one["type"]: one for one in cache["status"]["conditions"]}
    assert said["PlanCurrent"]["status"] == "False"
    assert "history.url file:///tmp/x is none that this operator's" in said["PlanCurrent"]["message"]
    assert said["Stalled"]["status"] == "False"
    assert len(server.of("statefulsets")) == 1


async def test_a_class_that_is_gone_when_the_operator_starts_is_known_from_the_stateful_set(
    server: Any, new_turn: Callable[..., Turn]
) -> None:
    tier = {"name": "ssd", "medium": "SSD", "classes": ["ssd"]} | {
        "capacity": {"initial": "1Gi", "min": "0", "max": "2Gi"}
    }
    speed = {"read": {"base": "100M"}, "write": {"base": "100M"}}
    price = {"capacity": [{"perGiBHour": "0.001"}]}
    ssd = {
        "apiVersion": "kvtide.dev/v1alpha1", "kind": "TierClass", "metadata": {"name": "ssd"},
        "spec": {"medium": "SSD", "price": price, "speed": speed, "storageClassName": "fast"},
    }  # fmt: skip
    turn = new_turn(tiers=[tier], classes=[ssd])
    await turn.take()
    (before,) = server.of("statefulsets")
    again = new_turn(classes=[ssd])
    for gone in server.of("tierclasses"):
        again.store.drop(TIER_CLASS, gone)
    again.store.put(STATEFUL_SET, before)
    await again.take()
    said = {one["type"]: one for one in server.objects["tieredcaches", *KEY]["status"]["conditions"]}
    assert said["Stalled"]["status"] == "False", said
    assert said["PlanCurrent"]["status"] == "False"
    assert "TierClass dram, ssd is gone: sizes are kept" in said["PlanCurrent"]["message"]
    (after,) = server.of("statefulsets")
    assert after == before
    before["metadata"]["annotations"][CLASSES] = "no JSON"
    lost = new_turn()
    for gone in server.of("tierclasses"):
        lost.store.drop(TIER_CLASS, gone)
    lost.store.put(STATEFUL_SET, before)
    await lost.take()
    assert "which is not there" in lost.stalled()["message"]


async def test_a_pass_of_which_nothing_can_be_said_does_not_end_the_passes(
    new_turn: Callable[[], Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a defect")

    turn = new_turn()
    monkeypatch.setattr(LiveCache, "run_pass", broken)
    monkeypatch.setattr(LiveCache, "pass_failed", broken)
    assert await turn.turns.take_pass() == 1
    assert await turn.turns.take_pass() == 2
    assert turn.failures() == 2


class Resize:
    """A cache of one node that runs, and its user's edit to twice the size."""

    def __init__(self, server: Any, turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.turn = server, turn
        self.at = ("pods", KEY.namespace, "chat-0")
        self.node = StubNode(server, self.at)
        monkeypatch.setattr(access, "NodeClient", lambda *_: self.node)

    async def settle(self, passes: int = 12) -> None:
        """Passes, and a kubelet that does at once what is asked of it."""
        for _ in range(passes):
            self.kubelet()
            await self.turn.take()
        self.kubelet()

    def kubelet(self) -> None:
        found = self.server.of("statefulsets")
        if not found:
            return
        pod = self.server.objects.get(self.at) or self.turn.pod("chat-0", found[0])
        (container,) = pod["spec"]["containers"]
        running = {"name": "node", "state": {"running": {}}, "resources": container["resources"]}
        status = {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [running],
        }
        self.turn.store.put(POD, self.server.put("pods", {**pod, "status": status}))

    async def edit(self, size: str) -> None:
        self.size = size
        tiers = copy.deepcopy(CACHE["spec"]["tiers"])
        tiers[0]["capacity"]["initial"] = size
        self.turn.edit({"tiers": tiers, "scaling": {"mode": "Manual"}})
        self.server.requests.clear()

    def said(self) -> str:
        return json.dumps(self.server.objects["tieredcaches", *KEY]["status"])

    def at_rest(self) -> bool:
        status = self.server.objects["tieredcaches", *KEY]["status"]
        conditions = {one["type"]: one["status"] for one in status["conditions"]}
        sizes = (status["tiers"][0]["actual"], conditions["Stalled"], conditions["Reconciling"])
        return sizes == (self.size, "False", "False")


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_of_a_resize_fails_it_is_said_and_the_next_pass_goes_on(
    fault: str, server: Any, new_turn: Callable[[], Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.0)  # what is refused is tried again by the very next pass
    number, calls = 0, 1
    while number < calls:
        server.objects.clear()
        resize = Resize(server, new_turn(), monkeypatch)
        await resize.settle()
        await resize.edit("128Mi")
        server.faults.extend([*[NO_FAULT] * number, FAULTS[fault]])
        said = []
        while len(server.requests) <= number and not (number and resize.at_rest()):
            resize.kubelet()
            await resize.turn.take()
            said.append(resize.said())
        # What was refused is in the status of the pass that goes on around it.
        resize.kubelet()
        await resize.turn.take()
        if len(server.requests) <= number:
            break  # it is through with fewer calls than that
        verb, path = server.requests[number]
        now = said[-1] + resize.said()
        what = f"{verb} {path} with {fault}: {now}, {resize.turn.warnings()}"
        harmless = fault in ("404", "409") or "/events" in path
        if path == "/v1/status":
            assert "chat-0" in now, what
            assert "/v1/status" in now, what
        elif not harmless:
            assert resize.turn.failures() >= 1, what
            assert path in " ".join(resize.turn.warnings()), what
            assert path in now, what
        await resize.settle()
        assert resize.at_rest(), what
        number, calls = number + 1, max(calls, len(server.requests), number + 2)
    assert number >= 8, "calls that were tried"
