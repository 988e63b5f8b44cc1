"""One round of the loop: observe → workload → plan → decide → act → report, each step timed and named."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from kvtide_operator.act.place import Place, Resized
from kvtide_operator.api.conditions import shortened
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.point import Point
from kvtide_operator.api.status import DecisionStatus, PredictionError
from kvtide_operator.decide.effect import Contradiction, contradiction, effect_s, last_run, windows_of
from kvtide_operator.decide.plan_document import point_of
from kvtide_operator.decide.policy import Verdict, judge
from kvtide_operator.decide.prediction import deviation, measured, smoothed
from kvtide_operator.decide.replan import Basis, is_outdated
from kvtide_operator.decide.situation import Recommendation, Situation, least_of, recommendation_of
from kvtide_operator.decide.target import Target, roots_of, sizes_of, ttl_s_of
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.observe.prometheus.source import MetricsSource
from kvtide_operator.plan.proposal import Demand, Heard, Plan
from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.planner.bill import Bill
from kvtide_operator.planner.declared import declared_of, pace_for, with_instances
from kvtide_operator.planner.process import Planner, PlannerLostError
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.pace import Pace
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.workload.trace import Trace
from kvtide_operator.world.metrics import EngineMetrics, Missing
from kvtide_operator.world.nodes import World

MAX_RECOMMENDATIONS = 10_000
"""Past recommendations kept for stabilisation: a week of rounds a minute."""
MAX_POINTS = 1000
"""Simulated points of where the cache was, kept to compare a move's effect with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round saw, thought and did; ``notes`` are sentences on what could not be read or kept.

    ``faults`` are what the round went on without: one word in CamelCase, and a sentence.
    """

    number: int
    world: World
    metrics: EngineMetrics | None
    demand: Demand | None
    plan: Plan | None
    noise: PredictionError | None
    verdict: Verdict
    decision: DecisionStatus
    resized: tuple[Resized, ...]
    storage_cost_per_hour: float
    steps_s: dict[str, float]
    notes: tuple[str, ...]
    faults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Searched:
    """A plan, and what it was made for."""

    plan: Plan | None
    speeds: Speeds | None
    why_not: str
    basis: Basis


@dataclass
class Loop:
    """The loop over one cache.

    Attributes:
        key: names the cache.
        manifest: what the user wants.
        observer: looks at the nodes.
        place: acts on them.
        planner: where plans are made.
        metrics: of the engines; None where none are declared.
        clock: seconds since the epoch; the demo's runs faster than the wall's.
        before: the workload to plan for until the nodes have seen one window of their own.
    """

    key: str
    manifest: Manifest
    observer: NodeObserver
    place: Place
    planner: Planner
    metrics: MetricsSource | None = None
    clock: Callable[[], float] = time.time
    before: Trace | None = None
    noise: PredictionError | None = None
    _recommended: deque[Recommendation] = field(default_factory=lambda: deque(maxlen=MAX_RECOMMENDATIONS))
    _points: deque[tuple[float, Point]] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    _observing_since_s: float | None = None
    _rounds: int = 0
    _planner_lives: int = 0
    _searched: _Searched | None = None
    _plannable: tuple[Any, ...] | None = None

    async def run_once(self) -> Round:
        """Look at the cache once, and move it one step where that is permitted and worth it."""
        steps_s: dict[str, float] = {}
        now_s = self.clock()
        if self._observing_since_s is None:
            self._observing_since_s = now_s
        if self._planner_lives != self.planner.lives:
            self._planner_lives = self.planner.lives
            self.observer.begin_anew()
        with _timed(steps_s, "observe"):
            world, pages = await self.observer.look(now_s)
            metrics = await self._read_metrics(now_s)
            contradicted = await self._contradicted(now_s)
        manifest = with_instances(self.manifest, metrics)
        heard: Heard | None = None
        searched: _Searched | None = None
        unplannable: str | None = None
        faults = _unread(metrics)
        try:
            with _timed(steps_s, "workload"):
                unplannable = await self._unplannable(manifest)
                if unplannable is None:
                    heard = await self.planner.take_in(self.key, manifest, pages, now_s, self.before)
            with _timed(steps_s, "plan"):
                if heard is not None:
                    searched = await self._search(manifest, world, heard.demand, metrics, now_s)
            notes = heard.notes if heard is not None else ()
            faults += [("HistoryUnreadable", said) for said in (heard.unreadable if heard else ())]
        except PlannerLostError as error:
            heard, unplannable, notes = None, str(error), ()
            faults.append(("PlannerLost", str(error)))
        if searched is not None and searched.plan is None and searched.why_not:
            unplannable = searched.why_not
        elif searched is not None and searched.why_not:
            notes = (*notes, searched.why_not)
        if unplannable is not None:
            notes = (*notes, unplannable)
        with _timed(steps_s, "decide"):
            situation = self._situation(manifest, world, metrics, heard, searched, contradicted, now_s)
            verdict = judge(replace(situation, unplannable=unplannable))
        with _timed(steps_s, "act"):
            decision = self._decision(verdict, now_s)
            resized = await self.place.act(verdict, decision)
        self._rounds += 1
        return Round(
            number=self._rounds,
            world=world,
            metrics=metrics,
            demand=heard.demand if heard else None,
            plan=searched.plan if searched else None,
            noise=self.noise,
            verdict=verdict,
            decision=decision,
            resized=tuple(resized),
            storage_cost_per_hour=self.cost_per_hour(self.place.target, self.place.ssd_class),
            steps_s=steps_s,
            notes=notes,
            faults=tuple(faults),
        )

    def cost_per_hour(self, target: Target, ssd_class: str | None) -> float:
        """What a target's tiers cost an hour."""
        return Bill.of(self.manifest).per_hour(target.dram_bytes, target.ssd_bytes, ssd_class)

    async def _unplannable(self, manifest: Manifest) -> str | None:
        """Why no load could be planned for; what can be planned is asked about once."""
        declared = (manifest.path, manifest.keys, *declared_of(manifest))
        if self._plannable == declared:
            return None
        reason = await self.planner.check(manifest)
        if reason is not None:
            self.observer.begin_anew()  # what nodes tell meanwhile is needed later
            return f"cannot plan: {reason}"
        self._plannable = declared
        return None

    async def _read_metrics(self, at_s: float) -> EngineMetrics | None:
        if self.metrics is None:
            return None
        return await self.metrics.read(at_s, self.manifest.cache.spec.scaling.window)

    async def _contradicted(self, now_s: float) -> Contradiction | None:
        """Why the last moves are to be taken back, where their effect can be seen by now."""
        shows_after_s = effect_s(self.manifest.cache.spec.scaling.down.stabilization)
        run = last_run(self.place.decisions, shows_after_s)
        windows = windows_of(run, now_s, shows_after_s) if run else None
        if run is None or windows is None or self.metrics is None:
            return None
        earlier = [point for at_s, point in self._points if at_s <= run.began_s]
        later = [point for at_s, point in self._points if at_s > run.ended_s]
        if not earlier or not later:
            return None
        before = await self.metrics.read(windows.before_s, windows.length_s)
        after = await self.metrics.read(windows.after_s, windows.length_s)
        return contradiction(run, before, after, (earlier[-1], later[-1]), self.noise)

    async def _search(
        self,
        manifest: Manifest,
        world: World,
        demand: Demand | None,
        metrics: EngineMetrics | None,
        now_s: float,
    ) -> _Searched | None:
        """The plan for the present demand: the last one while nothing that it was made for has moved."""
        if demand is None or not world.nodes or world.silent:
            return None
        last = self._searched
        pace = pace_for(manifest, metrics)
        if isinstance(pace, str) and last is not None and last.basis.pace is not None:
            pace = last.basis.pace  # what was measured stays true while metrics fail
        basis = Basis(
            declared=declared_of(manifest),
            here=self._configuration(manifest),
            roots=roots_of(self.place.target),
            demand=demand,
            pace=pace if isinstance(pace, Pace) else None,
            at_s=now_s,
        )
        if last is None or is_outdated(last.basis, basis, manifest.cache.spec.scaling.minimum_gain):
            unpaced = f"the engine profile's base counts: {pace}" if isinstance(pace, str) else ""
            last = self._searched = await self._searched_anew(manifest, basis, unpaced)
        self._compare(last.plan, world, demand, metrics, now_s)
        return last

    async def _searched_anew(self, manifest: Manifest, basis: Basis, unpaced: str) -> _Searched:
        """A new plan; ``unpaced`` says why it is made at the profile's pace, where another was asked for."""
        try:
            found = await self.planner.search(self.key, manifest, basis.here, basis.roots, basis.pace)
        except SimulationError as error:
            return _Searched(None, None, f"cannot plan: {error}", basis)
        plan, speeds = found or (None, None)
        return _Searched(plan, speeds, unpaced, basis)

    def _compare(
        self, plan: Plan | None, world: World, demand: Demand, metrics: EngineMetrics | None, now_s: float
    ) -> None:
        """Learn from what was simulated of where the cache is how far off that is."""
        if plan is None:
            return
        self._points.append((now_s, point_of(plan.current)))
        if world.capacity_bytes == plan.current.configuration.dram_bytes:
            seen = measured(metrics, demand.seen_prefix_hit_ratio, inferred=demand.inferred)
            self.noise = smoothed(self.noise, deviation(plan.current.outcome, seen))

    def _configuration(self, manifest: Manifest) -> Configuration:
        spec, target = manifest.cache.spec, self.place.target
        if not target.ssd_bytes or spec.ssd is None:
            return Configuration(target.dram_bytes, instances=spec.engine.count)
        return Configuration(
            target.dram_bytes,
            ttl_s_of(target, spec.ssd.ttl.max),
            self.place.ssd_class or spec.ssd.classes[0],
            volumes=spec.nodes.replicas.min,
            instances=spec.engine.count,
        )

    def _situation(
        self,
        manifest: Manifest,
        world: World,
        metrics: EngineMetrics | None,
        heard: Heard | None,
        searched: _Searched | None,
        contradicted: Contradiction | None,
        now_s: float,
    ) -> Situation:
        assert self._observing_since_s is not None
        past = tuple(self._recommended)
        plan = searched.plan if searched else None
        watched_s = now_s - self._observing_since_s
        idle = (
            heard is not None
            and heard.complete
            and heard.demand is None
            and bool(world.nodes)
            and not world.silent
            and watched_s >= manifest.cache.spec.scaling.window
        )
        if plan is not None:
            self._recommended.append(recommendation_of(plan.chosen, now_s))
        elif idle:
            self._recommended.append(least_of(manifest.cache.spec, self.place.target, now_s))
        return Situation(
            now_s=now_s,
            spec=manifest.cache.spec,
            here=self.place.target,
            ssd_class=self.place.ssd_class,
            plan=plan,
            idle=idle,
            inferred=searched is not None and searched.basis.demand.inferred,
            recommended=past,
            observing_since_s=self._observing_since_s,
            decisions=self.place.decisions,
            silent=[f"{node.name}: {node.reason}" for node in world.silent],
            metrics=metrics,
            noise=self.noise,
            speeds=searched.speeds if searched else None,
            contradiction=contradicted,
            cost_per_hour=self.cost_per_hour,
            approved=self.place.approved,
        )

    def _decision(self, verdict: Verdict, now_s: float) -> DecisionStatus:
        return DecisionStatus(
            time=now_s,
            action=verdict.action,
            before=sizes_of(self.place.target, self.place.ssd_class),
            after=sizes_of(verdict.target, verdict.ssd_class),
            reason=shortened(verdict.reason),
        )


def _unread(metrics: EngineMetrics | None) -> list[tuple[str, str]]:
    """Why nothing at all is known of the engines, where something should be."""
    readings = [reading for _, reading in metrics.readings()] if metrics is not None else []
    missing = [reading.why for reading in readings if isinstance(reading, Missing)]
    return [("MetricsMissing", missing[0])] if missing and len(missing) == len(readings) else []


@contextmanager
def _timed(steps_s: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    steps_s[name] = time.perf_counter() - started
