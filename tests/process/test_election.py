"""Leader election on a clock that moves when everybody sleeps; the Lease says no to old versions."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from kvtide_operator.act.kubernetes.errors import (
    ConflictError,
    NotFoundError,
    NotLeaderError,
    TimedOutError,
    UnavailableError,
)
from kvtide_operator.act.kubernetes.lease import DURATION_S, RENEW_DEADLINE_S, RETRY_S, Election
from kvtide_operator.world.kinds import LEASE

CALL_S = 0.05


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its time jumps to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        select = self._selector.select  # type: ignore[attr-defined]  # the one place where a loop waits

        def jump(timeout: float | None = None) -> Any:
            if timeout:
                self.now_s += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now_s


@dataclass
class LeaseServer:
    """One Lease. ``cut`` are those whose calls do not arrive; ``lose_answers`` those who never hear back."""

    lease: dict[str, Any] | None = None
    version: int = 0
    cut: set[str] = field(default_factory=set)
    lose_answers: set[str] = field(default_factory=set)
    history: list[tuple[float, str, int]] = field(default_factory=list)


@dataclass
class LeaseLink:
    server: LeaseServer
    who: str

    async def get(self, kind: object, namespace: str | None, name: str) -> dict[str, Any]:
        assert (kind, namespace, name) == (LEASE, "default", "kvtide")
        await self._travel()
        if self.server.lease is None:
            raise NotFoundError("GET lease", "not found", 404)
        return self.server.lease

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        await self._travel()
        if self.server.lease is not None:
            raise ConflictError("POST lease", "exists", 409)
        return await self._store(manifest)

    async def replace(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        await self._travel()
        if self.server.lease is None:
            raise NotFoundError("PUT lease", "not found", 404)
        if manifest["metadata"]["resourceVersion"] != str(self.server.version):
            raise ConflictError("PUT lease", "changed meanwhile", 409)
        return await self._store(manifest)

    async def _travel(self) -> None:
        await asyncio.sleep(CALL_S)
        if self.who in self.server.cut:
            raise UnavailableError("lease", "cut off")

    async def _store(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        server = self.server
        server.version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(server.version)}
        server.lease = {**manifest, "metadata": metadata}
        spec = manifest["spec"]
        server.history.append((now_s(), spec["holderIdentity"], spec["leaseTransitions"]))
        if self.who in server.lose_answers:
            raise TimedOutError("PUT lease", "no answer in time")
        return server.lease


def now_s() -> float:
    return asyncio.get_running_loop().time()


def candidate(server: LeaseServer, who: str, steady: Callable[[], float] = now_s) -> Election:
    return Election(
        LeaseLink(server, who), "default", "kvtide", who, random=random.Random(who).random, steady=steady,
        wall=lambda: 1_800_000_000.0,
    )  # fmt: skip


@pytest.fixture
def run() -> Iterator[Callable[[Any], Any]]:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        yield runner.run


def test_the_first_one_leads_and_goes_on_leading(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one = candidate(server, "one")
        with pytest.raises(NotLeaderError):
            one.term()
        term = await one.campaign()
        keeping = asyncio.create_task(one.keep())
        for _ in range(100):
            await asyncio.sleep(RETRY_S)
            assert one.leads
            one.check(term)
        assert not keeping.done()
        keeping.cancel()

    run(scenario())


def test_another_takes_over_when_the_lease_has_run_out_on_its_own_clock(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one, two = candidate(server, "one"), candidate(server, "two")
        term = await one.campaign()
        campaign = asyncio.create_task(two.campaign())
        await asyncio.sleep(RETRY_S * 2)
        assert not two.leads
        started_s = now_s()
        assert await campaign == term + 1
        # It had seen the Lease first within one retry, and it was not renewed since.
        assert DURATION_S - 3 * RETRY_S < now_s() - started_s < DURATION_S + RETRY_S
        assert not one.leads
        with pytest.raises(NotLeaderError):
            one.check(term)

    run(scenario())


def test_a_leader_that_is_cut_off_stops_before_another_begins(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one, two = candidate(server, "one"), candidate(server, "two")
        await one.campaign()
        keeping = asyncio.create_task(one.keep())
        campaign = asyncio.create_task(two.campaign())
        await asyncio.sleep(30)
        server.cut.add("one")
        cut_s = now_s()
        await keeping
        assert now_s() - cut_s <= RENEW_DEADLINE_S + CALL_S
        assert not one.leads
        assert not campaign.done()
        await campaign
        assert now_s() - cut_s <= DURATION_S + 2 * RETRY_S

    run(scenario())


def test_a_leader_whose_answers_are_lost_finds_its_own_name_and_goes_on(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one = candidate(server, "one")
        term = await one.campaign()
        keeping = asyncio.create_task(one.keep())
        await asyncio.sleep(5)
        server.lose_answers.add("one")
        await asyncio.sleep(RETRY_S * 2)
        server.lose_answers.clear()
        await asyncio.sleep(30)
        assert not keeping.done()
        one.check(term)
        keeping.cancel()

    run(scenario())


def test_who_gives_the_lease_back_is_followed_at_once(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one, two = candidate(server, "one"), candidate(server, "two")
        await one.campaign()
        campaign = asyncio.create_task(two.campaign())
        await asyncio.sleep(RETRY_S)
        await one.release()
        assert not one.leads
        released_s = now_s()
        await campaign
        assert now_s() - released_s < RETRY_S * 1.5

    run(scenario())


def test_a_deleted_lease_is_lost_and_the_next_term_is_higher(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one = candidate(server, "one")
        one.wall = lambda: 1_800_000_000.0 + now_s()
        term = await one.campaign()
        keeping = asyncio.create_task(one.keep())
        await asyncio.sleep(60)
        server.lease = None
        await keeping
        assert not one.leads
        assert await one.campaign() > term

    run(scenario())


def test_a_write_decided_in_an_earlier_term_is_refused_in_a_later_one(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one = candidate(server, "one")
        term = await one.campaign()
        await one.release()
        again = await one.campaign()
        assert again == term + 1
        one.check(again)
        with pytest.raises(NotLeaderError):
            one.check(term)

    run(scenario())


def test_a_leader_whose_nodes_have_seen_a_later_term_goes_above_it(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one = candidate(server, "one")
        term = await one.campaign()
        keeping = asyncio.create_task(one.keep())
        one.outgrow(term - 1)
        await asyncio.sleep(RETRY_S * 2)
        assert not keeping.done()
        one.outgrow(term + 100)
        await keeping
        with pytest.raises(NotLeaderError):
            one.check(term)
        await one.release()
        assert await one.campaign() == term + 101

    run(scenario())


def test_one_that_does_not_lead_gets_to_no_higher_term(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        one, two = candidate(server, "one"), candidate(server, "two")
        await one.campaign()
        keeping = asyncio.create_task(one.keep())
        campaign = asyncio.create_task(two.campaign())
        two.outgrow(2_000_000_000)
        await asyncio.sleep(DURATION_S * 3)
        assert one.leads
        assert not campaign.done()
        for task in (keeping, campaign):
            task.cancel()

    run(scenario())


def test_a_paused_process_may_not_write_when_it_wakes(run: Callable[[Any], Any]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        paused_s = 0.0
        one = candidate(server, "one", lambda: now_s() + paused_s)
        term = await one.campaign()
        paused_s = RENEW_DEADLINE_S
        assert not one.leads
        with pytest.raises(NotLeaderError):
            one.check(term)
        assert one.overdue_s >= 0.0

    run(scenario())


def apply_fault(server: LeaseServer, one: Election, fault: str) -> None:
    match fault:
        case "cut":
            server.cut.add(one.identity)
        case "heal":
            server.cut.discard(one.identity)
        case "lose":
            server.lose_answers.add(one.identity)
        case "hear":
            server.lose_answers.discard(one.identity)


async def one_leader_at_most(candidates: Iterable[Election]) -> None:
    while True:
        assert sum(one.leads for one in candidates) <= 1
        await asyncio.sleep(0.05)


async def stand(one: Election, led: list[tuple[int, str]]) -> None:
    while True:
        led.append((await one.campaign(), one.identity))
        await one.keep()


@example([(0.3, "c", "delete"), (1.0, "c", "lose"), (1.8, "a", "lose"), (3.9, "a", "delete"),
          (0.4, "b", "delete"), (1.5, "b", "release"), (2.7, "b", "lose"), (10.6, "b", "release"),
          (0.4, "b", "heal"), (22.4, "a", "delete"), (1.8, "b", "delete")])  # fmt: skip
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 25.0),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["cut", "heal", "lose", "hear", "release", "delete"]),
        ),
        max_size=15,
    )
)
def test_there_are_never_two_leaders_whatever_fails(faults: list[tuple[float, str, str]]) -> None:
    async def scenario() -> None:
        server = LeaseServer()
        candidates = {who: candidate(server, who) for who in "abc"}
        for one in candidates.values():
            one.wall = lambda: 1_800_000_000.0 + now_s()
        led: list[tuple[int, str]] = []
        standing = {who: asyncio.create_task(stand(one, led)) for who, one in candidates.items()}
        watching = asyncio.create_task(one_leader_at_most(candidates.values()))
        for pause_s, who, fault in faults:
            await asyncio.sleep(pause_s)
            if fault == "release":
                standing[who].cancel()
                await asyncio.wait([standing[who]])
                await candidates[who].release()
                standing[who] = asyncio.create_task(stand(candidates[who], led))
            # Whoever deletes the Lease of a living leader has to wait for its deadline.
            elif fault == "delete" and not any(one.leads for one in candidates.values()):
                server.lease = None
            else:
                apply_fault(server, candidates[who], fault)
        server.cut.clear()
        server.lose_answers.clear()
        await asyncio.sleep(DURATION_S * 2)
        assert sum(one.leads for one in candidates.values()) == 1
        tasks = [*standing.values(), watching]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [r for r in results if not isinstance(r, asyncio.CancelledError)]
        terms = [term for _, holder, term in server.history if holder]
        assert terms == sorted(terms)
        # A Lease that was deleted before whoever made it heard so has a term in which nobody led.
        assert len({term for term, _ in led}) == len(led)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(scenario())
