"""One round of the loop: observe → workload → plan → decide → act → report, each step timed and named."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from kvtide_operator.act.local import Resized
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.sizing import Decision, Recommendation, decide, hold
from kvtide_operator.observe.history import TraceHistory
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.observe.season import Season
from kvtide_operator.plan.live import Goal, Plan, plan_window
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.curve import HitCurve, hit_curve
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.workload.readers.node import read_node_lines
from kvtide_operator.workload.trace import Trace, TraceError
from kvtide_operator.world.nodes import World

MAX_RECOMMENDATIONS = 10_000
"""Past recommendations kept for stabilisation: a week of rounds a minute."""


class Place(Protocol):
    """Where nodes run, and what the loop may do to them."""

    async def resize(self, total_bytes: int) -> list[Resized]:
        """Bring the whole cache to ``total_bytes``."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What was asked of the cache within the window, and the hit ratio it could have at any size.

    Attributes:
        trace: the window and what came before it.
        first_request: the first of the window; those before it only warm the caches up.
        seen_prefix_hit_ratio: what engines reported, or None where no engine reports.
    """

    trace: Trace
    first_request: int
    requests: int
    blocks: int
    curve: HitCurve
    seen_prefix_hit_ratio: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw, thought and did; ``notes`` are sentences on what could not be read or kept."""

    number: int
    world: World
    workload: Workload | None
    plan: Plan | None
    decision: Decision
    resized: tuple[Resized, ...]
    storage_cost_per_hour: float
    steps_s: dict[str, float]
    notes: tuple[str, ...]


@dataclass
class Loop:
    """The loop over one cache.

    Attributes:
        spec: what the user wants.
        goal: bounds, constraints and objective of the planner.
        scenario_of: the scenario of a trace whose figures count from a request on.
        storage_cost_per_hour: the price of a DRAM capacity in bytes.
        observer: looks at the nodes.
        history: what their traces said so far.
        place: acts on them.
        planner: where plans are made: another process, since a plan takes a second of computing.
        season: keeps the windows, and knows the same slot of the season before; None without a history.
        clock: seconds since the epoch; the demo's runs faster than the wall's.
        before: the workload to plan for until the nodes have seen one window of their own.
    """

    spec: TieredCacheSpec
    goal: Goal
    scenario_of: Callable[[Trace, int], Scenario]
    storage_cost_per_hour: Callable[[int], float]
    observer: NodeObserver
    history: TraceHistory
    place: Place
    planner: Executor
    season: Season | None = None
    clock: Callable[[], float] = time.time
    before: Trace | None = None
    _recommended: deque[Recommendation] = field(default_factory=lambda: deque(maxlen=MAX_RECOMMENDATIONS))
    _observing_since_s: float | None = None
    _rounds: int = 0

    async def run_once(self) -> Round:
        """Look at the cache once, and move it one step where that is permitted and worth it."""
        steps_s: dict[str, float] = {}
        now_s = self.clock()
        if self._observing_since_s is None:
            self._observing_since_s = now_s
        with _timed(steps_s, "observe"):
            world = await self.observer.look(now_s)
        with _timed(steps_s, "workload"):
            workload, notes = await asyncio.to_thread(self._workload, now_s)
        with _timed(steps_s, "plan"):
            plan = await self._plan(world, workload)
        with _timed(steps_s, "decide"):
            decision = self._decide(world, plan, now_s)
        with _timed(steps_s, "act"):
            resized = await self._act(decision)
        self._rounds += 1
        return Round(
            number=self._rounds,
            world=world,
            workload=workload,
            plan=plan,
            decision=decision,
            resized=tuple(resized),
            storage_cost_per_hour=self.storage_cost_per_hour(world.capacity_bytes),
            steps_s=steps_s,
            notes=notes,
        )

    def _workload(self, now_s: float) -> tuple[Workload | None, tuple[str, ...]]:
        """What to plan for, and sentences on what could not be read."""
        window_s = self.spec.scaling.window
        notes: list[str] = []
        if self.history.gap_lines:
            notes.append(
                f"{self.history.gap_lines:,} trace lines were gone from the nodes before they were read"
            )
        seen = slot = None
        try:
            seen = read_node_lines(self.history.lines(), block_tokens=self.spec.model.block_tokens)
            if self.season is not None:
                self.season.keep(seen, now_s)
                slot = self.season.slot(now_s)
        except TraceError as error:
            notes.append(str(error))
        watched_s = now_s - seen.started_at_s if seen is not None else 0.0
        live = _workload_of(seen, watched_s, window_s) if seen is not None else None
        past = slot if slot is not None else self.before if watched_s < window_s else None
        if past is not None:
            planned = _workload_of(past, past.span_s, window_s)
            ratio = live.seen_prefix_hit_ratio if live else None
            return planned and replace(planned, seen_prefix_hit_ratio=ratio), tuple(notes)
        return live, tuple(notes)

    async def _plan(self, world: World, workload: Workload | None) -> Plan | None:
        if workload is None or not world.nodes or world.silent:
            return None
        scenario = self.scenario_of(workload.trace, workload.first_request)
        current = Configuration(world.capacity_bytes, instances=self.goal.space.instances)
        running = asyncio.get_running_loop()
        try:
            return await running.run_in_executor(self.planner, plan_window, scenario, self.goal, current)
        except SimulationError:
            return None

    def _decide(self, world: World, plan: Plan | None, now_s: float) -> Decision:
        here = world.capacity_bytes
        if world.silent or not world.nodes:
            silent = "; ".join(f"{node.name}: {node.reason}" for node in world.silent)
            return hold(here, f"keeps all sizes while a node is silent ({silent})")
        if plan is None:
            return hold(here, "has seen no requests within the window that it could plan for")
        assert self._observing_since_s is not None
        past = tuple(self._recommended)
        self._recommended.append(Recommendation(now_s, plan.chosen.configuration.dram_bytes))
        return decide(
            plan,
            past,
            now_s=now_s,
            capacity=self.spec.dram.capacity,
            scaling=self.spec.scaling,
            observing_since_s=self._observing_since_s,
        )

    async def _act(self, decision: Decision) -> list[Resized]:
        if decision.action == "hold":
            return []
        return await self.place.resize(decision.to_bytes)


def _workload_of(trace: Trace, observed_s: float, window_s: float) -> Workload | None:
    """The last ``window_s`` seconds of a trace; what came before them warms the curve up."""
    first = int(trace.arrival_s.searchsorted(observed_s - window_s))
    if first == trace.requests:
        return None
    blocks = int(trace.block_start[-1] - trace.block_start[first])
    hits = trace.hit_blocks[first:] if trace.hit_blocks is not None else None
    return Workload(
        trace=trace,
        first_request=first,
        requests=trace.requests - first,
        blocks=blocks,
        curve=hit_curve(trace, first_request=first),
        seen_prefix_hit_ratio=float(hits.sum()) / blocks if hits is not None and blocks else None,
    )


@contextmanager
def _timed(steps_s: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    steps_s[name] = time.perf_counter() - started
