"""Any call of a pass fails in any way: status, an Event and a metric say it, and the next pass recovers."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.process.turn import CACHE, Turn

from kvtide_operator.reconcile.cache import LiveCache
from kvtide_operator.world.kinds import TIERED_CACHE

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
