"""What a round asks of Prometheus, history or planner fails in any way: it is said, and the next recovers."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.process.test_pass_failures import FAULTS, NO_FAULT
from tests.process.test_round_failures import RoundTurn, new_round
from tests.process.turn import KEY

from kvtide_operator.loop import Loop
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.plan.proposal import Heard
from kvtide_operator.planner.process import PlannerLostError

__all__ = ["new_round"]

TRIES = 3
"""Of a query to a server that is not well."""


class Planner:
    """Has no load to plan for; ``errors`` are raised once each, by the work that fails."""

    def __init__(self) -> None:
        self.lives = 1
        self.errors: dict[str, Exception] = {}
        self.unreadable: tuple[str, ...] = ()

    async def check(self, _: Any) -> None:
        self._fail("check")

    async def take_in(self, *_: Any) -> Heard:
        self._fail("take_in")
        return Heard(None, True, self.unreadable, self.unreadable)

    def _fail(self, work: str) -> None:
        if work in self.errors:
            raise self.errors.pop(work)


async def looping(server: Any, make: Callable[[], Any]) -> tuple[RoundTurn, Planner]:
    """A cache whose rounds are real, but for the nodes and the planner."""
    turn: RoundTurn = await make()
    turn.edit({"metrics": {"prometheus": {"url": server.url}}})
    await turn.take()
    planner, cache = Planner(), turn.turns.cache
    assert cache.manifest is not None
    observer = NodeObserver(dict)
    turn.turns.loop = Loop(key="c", manifest=cache.manifest, observer=observer, place=cache, planner=planner)  # type: ignore[arg-type]
    server.requests.clear()
    return turn, planner


def condition(server: Any, name: str) -> tuple[str, str]:
    (found,) = [
        one for one in server.objects["tieredcaches", *KEY]["status"]["conditions"] if one["type"] == name
    ]
    return found["status"], found["message"]


def counted(turn: RoundTurn) -> dict[str, float]:
    """Failures of rounds, by their reason."""
    return {
        sample.labels["reason"]: sample.value
        for metric in turn.registry.collect()
        for sample in metric.samples
        if sample.name == "kvtide_operator_failures_total" and sample.labels["of"] == "round"
    }


@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_query_to_prometheus_fails_it_is_said_and_the_next_round_recovers(
    fault: str, server: Any, new_round: Callable[[], Any]
) -> None:
    turn, _ = await looping(server, new_round)
    await turn.round()
    queries = [path for _, path in turn.calls if path == "/api/v1/query"]
    assert len(queries) >= 3, turn.calls
    assert condition(server, "MetricsAvailable")[0] == "True"
    assert counted(turn) == {}
    for number in range(len(queries)):
        turn, _ = await looping(server, new_round)
        times = TRIES if fault in ("429", "500") else 1
        server.faults.extend([*[NO_FAULT] * number, *[FAULTS[fault]] * times])
        await turn.round()
        status, message = condition(server, "MetricsAvailable")
        what = f"query {number} with {fault}: {message}, {turn.warnings()}"
        assert not server.faults, what
        assert status == "False", what
        assert message.startswith(server.url), what
        assert counted(turn) == {"MetricsMissing": 1}, what
        assert [said.startswith(server.url) for said in turn.warnings()] == [True], what
        await turn.round()
        assert condition(server, "MetricsAvailable")[0] == "True", what
        assert counted(turn) == {"MetricsMissing": 1}, what


@pytest.mark.parametrize("work", ["check", "take_in"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PlannerLostError("the planning process ended unexpectedly"), "PlannerLost"),
        (OSError("a disk is full"), "InternalError"),
        (ValueError("no window can be read"), "CannotPlan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_whatever_the_planner_fails_at_is_said_and_the_next_round_recovers(
    work: str, error: Exception, reason: str, server: Any, new_round: Callable[[], Any]
) -> None:
    turn, planner = await looping(server, new_round)
    planner.errors[work] = error
    await turn.round()
    assert str(error) in condition(server, "PlanCurrent")[1]
    assert counted(turn) == {reason: 1}
    assert [str(error) in said for said in turn.warnings()] == [True]
    await turn.round()
    assert str(error) not in condition(server, "PlanCurrent")[1]
    assert counted(turn) == {reason: 1}


async def test_a_history_that_cannot_be_read_is_said_and_the_next_round_recovers(
    server: Any, new_round: Callable[[], Any]
) -> None:
    turn, planner = await looping(server, new_round)
    planner.unreadable = ("s3://bucket/prefix: access denied",)
    await turn.round()
    assert "s3://bucket/prefix: access denied" in condition(server, "PlanCurrent")[1]
    assert counted(turn) == {"HistoryUnreadable": 1}
    assert turn.warnings() == ["s3://bucket/prefix: access denied"]
    planner.unreadable = ()
    await turn.round()
    assert "s3://" not in condition(server, "PlanCurrent")[1]
