"""The loop over real nodes: subprocesses, sockets, memory."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvtide_operator.act import local
from kvtide_operator.act.local import LocalPlace, PlaceError
from kvtide_operator.api.manifest import Manifest, load_manifest
from kvtide_operator.api.tierclass import Endurance, TierClass
from kvtide_operator.api.tieredcache import Capacity, Objective, SsdTier
from kvtide_operator.cli.assemble import local_loop
from kvtide_operator.cli.report.rounds import round_as_text
from kvtide_operator.decide.target import Target
from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.targets import parse_targets
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.trace import Trace

DEMO = Path(__file__).parents[2] / "operator/src/kvtide_operator/cli/demo.yaml"
MI = 1 << 20


class Clock:
    """A clock that moves only when told to, and by half a second with every request played."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def next_request(self) -> float:
        self.now_s += 0.5
        return self.now_s


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest(DEMO)


@pytest.fixture(scope="module")
def workload() -> Trace:
    return generate(profile="chat", requests=400, rate_per_s=2.0, seed=3)


async def play(trace: Trace, place: LocalPlace, clock: Clock) -> float:
    options = ReplayOptions(block_bytes=64 * 1024, clock=clock.next_request)
    report = await replay(trace, parse_targets(",".join(place.addresses)), options)
    assert report.errors == 0
    assert report.wrong_bytes == 0
    assert report.prefix_hit_ratio is not None
    return report.prefix_hit_ratio


async def test_a_round_sees_the_workload_and_moves_the_nodes_one_step(
    manifest: Manifest, workload: Trace
) -> None:
    clock = Clock()
    async with local_loop(manifest, clock=clock) as (loop, place):
        await loop.run_once()
        hit_ratio = await play(workload, place, clock)
        clock.now_s += 200
        seen = await loop.run_once()
        assert seen.demand is not None
        assert seen.demand.requests == workload.requests
        assert seen.demand.seen_prefix_hit_ratio == pytest.approx(hit_ratio, abs=1e-9)
        assert seen.plan is not None
        assert seen.decision.action == "Shrink"
        assert seen.decision.after.dram == 96 * MI
        after = await loop.run_once()
        assert [node.capacity_bytes for node in after.world.nodes] == [48 * MI, 48 * MI]
        assert after.world.used_bytes <= 96 * MI
        # Nobody asks for anything for a whole window: the cache is idle, and goes to its least.
        await place.resize(Target(256 * MI))
        clock.now_s += 600
        reasons = []
        for _ in range(8):
            clock.now_s += 300
            idle = await loop.run_once()
            reasons.append(idle.decision.reason)
        assert "idle: no requests within 10m" in reasons
        assert reasons[-1] == "idle: no requests within 10m, and 64Mi of DRAM is the least that is declared"
        assert [node.capacity_bytes for node in idle.world.nodes] == [32 * MI, 32 * MI]
    assert set(seen.steps_s) == {"observe", "workload", "plan", "decide", "act"}


async def test_without_requests_the_size_is_kept(manifest: Manifest) -> None:
    async with local_loop(manifest) as (loop, _):
        done = await loop.run_once()
    assert (done.decision.action, done.decision.reason) == (
        "Hold",
        "has seen no requests within the window that it could plan for",
    )
    assert done.plan is None


async def test_a_trace_from_before_stands_in_until_the_nodes_have_seen_a_window(
    manifest: Manifest, workload: Trace
) -> None:
    async with local_loop(manifest, before=workload) as (loop, _):
        done = await loop.run_once()
    assert done.plan is not None
    assert done.demand is not None
    assert done.demand.seen_prefix_hit_ratio is None


async def test_all_sizes_are_kept_while_a_node_is_silent(manifest: Manifest, workload: Trace) -> None:
    clock = Clock()
    async with local_loop(manifest, clock=clock) as (loop, place):
        await play(workload, place, clock)
        clock.now_s += 600
        os.kill(next(nodes()), signal.SIGKILL)
        done = await loop.run_once()
        assert done.decision.action == "Hold"
        assert "keeps all sizes while a node is silent" in done.decision.reason
        assert (len(done.world.nodes), len(done.world.silent)) == (1, 1)


async def test_a_dead_node_serves_again_at_its_address_with_its_size(
    manifest: Manifest, workload: Trace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "FIRST_RESTART_S", 0.05)
    clock = Clock()
    async with local_loop(manifest, clock=clock) as (loop, place):
        addresses, before = list(place.addresses), set(nodes())
        await place.resize(Target(96 * MI))
        os.kill(next(nodes()), signal.SIGKILL)
        done = await loop.run_once()
        if done.world.silent:  # its successor was not there yet
            said = round_as_text(done)
            assert "48Mi on 1 of 2 nodes (nothing is known of node-" in said
            assert " an hour for all of them; Hold" in said
        while "serves again" not in (said := capsys.readouterr().err):
            assert "did not start" not in said
            await asyncio.sleep(0.02)
        done = await loop.run_once()
        assert not done.world.silent
        assert [node.capacity_bytes for node in done.world.nodes] == [48 * MI, 48 * MI]
        assert list(place.addresses) == addresses
        assert len(set(nodes()) - before) == 1
        await play(workload, place, clock)


async def test_a_node_that_refuses_does_not_stop_the_others(manifest: Manifest) -> None:
    async with local_loop(manifest) as (_, place):
        outcomes = await place.resize(Target(1 << 50))
        assert all(one.problem is not None and "409" in one.problem for one in outcomes)
        outcomes = await place.resize(Target(128 * MI))
        assert [one.capacity_bytes for one in outcomes] == [64 * MI, 64 * MI]


async def test_no_node_is_left_behind(manifest: Manifest) -> None:
    before = set(nodes())
    started: set[int] = set()

    async def interrupted() -> None:
        async with local_loop(manifest):
            started.update(set(nodes()) - before)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await interrupted()
    assert len(started) == 2
    assert set(nodes()) <= before


async def test_a_node_that_cannot_start_says_why() -> None:
    with pytest.raises(PlaceError, match=r"node-0 did not start: .*dram"):
        async with LocalPlace(2, Target(1 << 60), ssd_class=None, options=lambda _: [], say=print):
            pass


async def test_a_node_is_started_again_though_a_try_has_a_defect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "FIRST_RESTART_S", 0.01)
    said: list[str] = []
    serves = asyncio.Event()

    def say(sentence: str) -> None:
        said.append(sentence)
        if "serves again" in sentence:
            serves.set()

    async with LocalPlace(1, Target(16 * MI), ssd_class=None, options=lambda _: [], say=say) as place:
        start, defects = place._start, [RuntimeError("a defect")]

        async def fails_once(name: str, listen: str, admin: str) -> local._Node:
            if defects:
                raise defects.pop()
            return await start(name, listen, admin)

        monkeypatch.setattr(place, "_start", fails_once)
        place._nodes[0].process.kill()
        async with asyncio.timeout(40):
            await serves.wait()
    assert "node-0 did not start again: RuntimeError('a defect')" in said


def nodes() -> Iterator[int]:
    """Process ids of the cache nodes this process has started and not yet waited for."""
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"kvtide_cachenode" in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield int(pid)


@pytest.fixture
def with_ssd(manifest: Manifest) -> Manifest:
    ssd = SsdTier.model_validate(
        {
            "name": "ssd",
            "medium": "SSD",
            "classes": ["ssd-scaled"],
            "capacity": {"initial": 0, "min": 0, "max": "4Gi", "step": "1Mi"},
            "ttl": {"min": "0s", "max": "1h"},
        }
    )
    speed = {"base": "1G", "floor": "1G", "ceiling": "1G"}
    tier_class = TierClass.model_validate(
        {
            "apiVersion": "kvtide.dev/v1alpha1",
            "kind": "TierClass",
            "metadata": {"name": "ssd-scaled"},
            "spec": {
                "medium": "SSD",
                "price": {"capacity": [{"perGiBHour": "0.3"}]},
                "speed": {"read": speed, "write": speed},
                "volume": {"step": "1Mi"},
            },
        }
    )
    spec = manifest.cache.spec
    small = Capacity(initial=16 * MI, min=16 * MI, max=16 * MI)
    dram = spec.dram.model_copy(update={"capacity": small})
    spec = spec.model_copy(update={"tiers": (dram, ssd), "objective": Objective(prefer="Latency")})
    cache = manifest.cache.model_copy(update={"spec": spec})
    return replace(manifest, cache=cache, classes={**manifest.classes, "ssd-scaled": tier_class})


async def test_the_loop_turns_an_ssd_tier_on(with_ssd: Manifest, workload: Trace) -> None:
    clock = Clock()
    async with local_loop(with_ssd, clock=clock) as (loop, place):
        first = await loop.run_once()
        assert [node.ssd and node.ssd.capacity_bytes for node in first.world.nodes] == [0, 0]
        await play(workload, place, clock)
        clock.now_s += 100
        seen = await loop.run_once()
        assert seen.decision.action == "Grow", seen.decision.reason
        assert seen.decision.after.ssd
        after = await loop.run_once()
        share = seen.decision.after.ssd // 2 // 4096 * 4096
        assert [node.ssd and node.ssd.capacity_bytes for node in after.world.nodes] == [share, share]
        assert {node.ttl_s.other for node in after.world.nodes if node.ttl_s} == {seen.decision.after.ttl}
        assert place.decisions[0] == seen.decision


async def test_a_node_is_told_what_the_planner_simulates(with_ssd: Manifest) -> None:
    """The same options as in a pod: which entries are written, and how much an SSD of the class stands."""
    spec = with_ssd.cache.spec
    assert spec.ssd is not None
    ssd = spec.ssd.model_copy(update={"admission": "SecondTouch"})
    spec = spec.model_copy(update={"tiers": (spec.dram, ssd)})
    tier_class = with_ssd.classes["ssd-scaled"]
    worn = tier_class.spec.model_copy(update={"endurance": Endurance(writes_per_day=5 << 30)})
    manifest = replace(
        with_ssd,
        cache=with_ssd.cache.model_copy(update={"spec": spec}),
        classes={**with_ssd.classes, "ssd-scaled": tier_class.model_copy(update={"spec": worn})},
    )
    async with local_loop(manifest):
        for pid in nodes():
            told = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            assert {"--ssd-admission=secondTouch", f"--ssd-writes-per-day={5 << 30}"} <= set(told)
