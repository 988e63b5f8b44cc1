"""One round of the loop: observe → workload → plan → decide → act → report, each step timed and named."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from typing import Protocol

from kvtide_operator.act.local import Resized
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.decide.sizing import Decision, Recommendation, decide, hold
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.plan.proposal import Demand, Plan
from kvtide_operator.planner.process import Planner, PlannerLostError
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.workload.trace import Trace
from kvtide_operator.world.nodes import World

MAX_RECOMMENDATIONS = 10_000
"""Past recommendations kept for stabilisation: a week of rounds a minute."""
SEARCH_EVERY_S = 3600.0
"""A plan is made anew at least this often, also when nothing seems to have changed."""


class Place(Protocol):
    """Where nodes run, and what the loop may do to them."""

    async def resize(self, total_bytes: int) -> list[Resized]:
        """Bring the whole cache to ``total_bytes``."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw, thought and did; ``notes`` are sentences on what could not be read or kept."""

    number: int
    world: World
    demand: Demand | None
    plan: Plan | None
    decision: Decision
    resized: tuple[Resized, ...]
    storage_cost_per_hour: float
    steps_s: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Searched:
    """A plan, and what it was made for."""

    plan: Plan | None
    demand: Demand
    manifest: Manifest
    configuration: Configuration
    at_s: float


@dataclass
class Loop:
    """The loop over one cache.

    Attributes:
        key: names the cache.
        manifest: what the user wants.
        storage_cost_per_hour: the price of a DRAM capacity in bytes.
        observer: looks at the nodes.
        place: acts on them.
        planner: where plans are made.
        clock: seconds since the epoch; the demo's runs faster than the wall's.
        before: the workload to plan for until the nodes have seen one window of their own.
    """

    key: str
    manifest: Manifest
    storage_cost_per_hour: Callable[[int], float]
    observer: NodeObserver
    place: Place
    planner: Planner
    clock: Callable[[], float] = time.time
    before: Trace | None = None
    _recommended: deque[Recommendation] = field(default_factory=lambda: deque(maxlen=MAX_RECOMMENDATIONS))
    _observing_since_s: float | None = None
    _rounds: int = 0
    _planner_lives: int = 0
    _searched: _Searched | None = None

    async def run_once(self) -> Round:
        """Look at the cache once, and move it one step where that is permitted and worth it."""
        steps_s: dict[str, float] = {}
        now_s = self.clock()
        if self._observing_since_s is None:
            self._observing_since_s = now_s
        if self._planner_lives != self.planner.lives:
            self._planner_lives = self.planner.lives
            self.observer.begin_anew()
        demand: Demand | None = None
        plan: Plan | None = None
        notes: tuple[str, ...] = ()
        with _timed(steps_s, "observe"):
            world, pages = await self.observer.look(now_s)
        try:
            with _timed(steps_s, "workload"):
                demand, notes = await self.planner.take_in(self.key, self.manifest, pages, now_s, self.before)
            with _timed(steps_s, "plan"):
                plan = await self._plan(world, demand, now_s)
        except PlannerLostError as error:
            notes = (str(error),)
        with _timed(steps_s, "decide"):
            decision = self._decide(world, plan, now_s)
        with _timed(steps_s, "act"):
            resized = await self._act(decision)
        self._rounds += 1
        return Round(
            number=self._rounds,
            world=world,
            demand=demand,
            plan=plan,
            decision=decision,
            resized=tuple(resized),
            storage_cost_per_hour=self.storage_cost_per_hour(world.capacity_bytes),
            steps_s=steps_s,
            notes=notes,
        )

    async def _plan(self, world: World, demand: Demand | None, now_s: float) -> Plan | None:
        """The plan for the present demand: the last one while nothing that it was made for has moved."""
        if demand is None or not world.nodes or world.silent:
            return None
        manifest = self.manifest
        here = Configuration(world.capacity_bytes, instances=manifest.cache.spec.engine.instances)
        last = self._searched
        if (
            last is None
            or now_s - last.at_s >= SEARCH_EVERY_S
            or (last.manifest, last.configuration) != (manifest, here)
            or moved(last.demand, demand, manifest.cache.spec.scaling.minimum_gain)
        ):
            try:
                plan = await self.planner.search(self.key, manifest, here)
            except SimulationError:
                plan = None
            last = self._searched = _Searched(plan, demand, manifest, here, now_s)
        return last.plan

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
        spec = self.manifest.cache.spec
        return decide(
            plan,
            past,
            now_s=now_s,
            capacity=spec.dram.capacity,
            scaling=spec.scaling,
            observing_since_s=self._observing_since_s,
        )

    async def _act(self, decision: Decision) -> list[Resized]:
        if decision.action == "hold":
            return []
        return await self.place.resize(decision.to_bytes)


def moved(before: Demand, now: Demand, threshold: float) -> bool:
    """Whether the demand has changed by more than ``threshold``: hits at some size, or blocks asked for.

    The number of requests varies by chance: three standard deviations of a Poisson count are no change.
    """
    if before.curve.distance(now.curve) > threshold:
        return True
    rate_before, rate_now = before.blocks / before.span_s, now.blocks / now.span_s
    chance = 3 / sqrt(min(before.requests, now.requests))
    return abs(rate_now - rate_before) > max(threshold, chance) * max(rate_before, rate_now)


@contextmanager
def _timed(steps_s: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    steps_s[name] = time.perf_counter() - started
