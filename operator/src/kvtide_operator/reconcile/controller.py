"""Whose turn it is: passes on every change and while something is under way, rounds at their interval."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

from kvtide_operator.act.kubernetes.errors import ApiError, NotLeaderError
from kvtide_operator.loop import Loop, Round
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.planner.prices import price_of
from kvtide_operator.planner.process import Planner
from kvtide_operator.process import Surroundings
from kvtide_operator.reconcile.access import metrics_of
from kvtide_operator.reconcile.cache import Hands, LiveCache
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.world.kinds import TIERED_CACHE, CacheKey

SPACING_S: Final = 0.2
"""Between two passes of a cache at least: changes come in swarms."""
UNDER_WAY_S: Final = 2.0
"""Until the next pass of a cache that waits for something; one that acted is looked at again at once."""
SETTLED_S: Final = 30.0
"""Until the next pass of one that has, when nothing is heard of it."""
_NEXT_S: Final = {"settled": SETTLED_S, "acted": SPACING_S, "waits": UNDER_WAY_S}
LONGEST_BACKOFF_S: Final = 60.0
"""Between passes that fail: 1, 2, 4 … seconds, up to this."""
CONCURRENT_PASSES: Final = 16
FIRST_ROUNDS_S: Final = 0.1
"""So much later than that of the cache before begins a first round: plans are made one at a time."""
METRICS_THREADS: Final = 8

log = logging.getLogger("kvtide_operator.controller")


class ReconcileMetrics:
    """How long steps take, how good predictions are, what the tiers cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        buckets = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
        self.passes = Histogram(
            "kvtide_operator_pass_duration_seconds", "How long a pass over a cache took.",
            ("ending",), registry=registry, buckets=buckets,
        )  # fmt: skip
        self.steps = Histogram(
            "kvtide_operator_step_duration_seconds", "How long a step of a round took.",
            ("step",), registry=registry, buckets=buckets,
        )  # fmt: skip
        labels = ("namespace", "cache")
        self.cost = Gauge(
            "kvtide_operator_cost_per_hour",
            "What the tiers cost, in their currency.",
            labels,
            registry=registry,
        )
        self.savings = Gauge(
            "kvtide_operator_planned_savings_ratio", "Share of that which the newest plan saves.",
            labels, registry=registry,
        )  # fmt: skip
        self.error = Gauge(
            "kvtide_operator_prediction_error_ratio", "Measured less simulated hit ratio, absolute.",
            labels, registry=registry,
        )  # fmt: skip
        self.planned = Gauge(
            "kvtide_operator_last_plan_timestamp_seconds", "When a cache was last planned.",
            labels, registry=registry,
        )  # fmt: skip

    def take(self, key: CacheKey, done: Round, now_s: float) -> None:
        """Count a round."""
        for step, took_s in done.steps_s.items():
            self.steps.labels(step).observe(took_s)
        self.cost.labels(*key).set(done.storage_cost_per_hour)
        if done.plan is not None:
            before = done.plan.current.outcome.storage_cost_per_hour
            after = done.plan.chosen.outcome.storage_cost_per_hour
            self.savings.labels(*key).set((before - after) / before if before else 0.0)
            self.planned.labels(*key).set(now_s)
        if done.noise is not None and done.noise.hit_ratio is not None:
            self.error.labels(*key).set(done.noise.hit_ratio)

    def forget(self, key: CacheKey) -> None:
        """The cache is gone."""
        for gauge in (self.cost, self.savings, self.error, self.planned):
            if tuple(key) in gauge._metrics:  # it has no public way to ask
                gauge.remove(*key)


@dataclass
class _Turns:
    """The rhythm of one cache."""

    cache: LiveCache
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    loop: Loop | None = None
    failures: int = 0
    tasks: tuple[asyncio.Task[None], ...] = ()


class Controller:
    """Looks after every cache in the store while this process leads."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._metrics = ReconcileMetrics(around.registry)
        self._turns: dict[CacheKey, _Turns] = {}
        self._hands: Hands | None = None
        self._planner: Planner | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._passing = asyncio.Semaphore(CONCURRENT_PASSES)
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, term: int) -> None:
        """Begin with every cache there is; ``term`` goes into the documents for nodes."""
        around = self._around
        self._hands = Hands(around.api, around.executor, around.events, around.store, around.namespace, term)
        self._planner = Planner()
        await self._planner.__aenter__()
        self._threads = ThreadPoolExecutor(METRICS_THREADS, "metrics")
        for key in around.store.caches():
            self.wake(key)

    async def stop(self) -> None:
        """End everything that is under way; it may be started again."""
        turns, self._turns, self._hands = self._turns, {}, None
        await asyncio.gather(*(self._end(one) for one in turns.values()), *self._ending)
        if self._planner is not None:
            await self._planner.__aexit__(None, None, None)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._planner = self._threads = None

    def wake(self, key: CacheKey) -> None:
        """Something about a cache has changed."""
        if self._hands is None:
            return
        raw = self._around.store.get(TIERED_CACHE, *key)
        gone = raw is None or "deletionTimestamp" in raw["metadata"]
        if gone:
            if key in self._turns:
                self._forget(key)
            return
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = _Turns(LiveCache(key, self._hands))
            turns.tasks = (
                asyncio.create_task(self._passes(turns)),
                asyncio.create_task(self._rounds(turns, FIRST_ROUNDS_S * len(self._turns))),
            )
        turns.woken.set()

    def _forget(self, key: CacheKey) -> None:
        """Children go with the cache, by their owner references: there is nothing to clean up."""
        self._metrics.forget(key)
        task = asyncio.create_task(self._end(self._turns.pop(key), key))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, turns: _Turns, forgotten: CacheKey | None = None) -> None:
        for task in turns.tasks:
            task.cancel()
        await asyncio.gather(*turns.tasks, return_exceptions=True)
        await turns.cache.close()
        if forgotten is not None and self._planner is not None:
            await self._planner.forget(str(forgotten))

    async def _passes(self, turns: _Turns) -> None:
        wait_s = 0.0
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await turns.woken.wait()
            except TimeoutError:
                pass
            turns.woken.clear()
            wait_s = await self._pass(turns)
            await asyncio.sleep(min(SPACING_S, wait_s))

    async def _pass(self, turns: _Turns) -> float:
        """One pass; how long to wait for the next."""
        began_s = time.monotonic()
        ending: str = "failed"
        try:
            async with self._passing:
                ending = await turns.cache.run_pass()
            turns.failures = 0
            return _NEXT_S[ending]
        except (ApiError, NotLeaderError) as error:
            return self._failed(turns, str(error))
        except Exception:
            log.exception("A pass failed", extra={"cache": str(turns.cache.key)})
            return self._failed(turns, "see above")
        finally:
            self._metrics.passes.labels(ending).observe(time.monotonic() - began_s)

    def _failed(self, turns: _Turns, reason: str) -> float:
        turns.failures += 1
        wait_s = min(2.0 ** (turns.failures - 1), LONGEST_BACKOFF_S)
        log.warning(
            "A pass ended early", extra={"cache": str(turns.cache.key), "reason": reason, "next_s": wait_s}
        )
        return wait_s

    async def _rounds(self, turns: _Turns, wait_s: float) -> None:
        cache = turns.cache
        await asyncio.sleep(wait_s)
        while True:
            manifest = cache.manifest
            if manifest is None:
                await asyncio.sleep(UNDER_WAY_S)
                continue
            scaling = manifest.cache.spec.scaling
            began_s = time.monotonic()
            try:
                await self._round(turns)
            except (ApiError, NotLeaderError, SimulationError, ValueError) as error:
                log.warning("A round ended early", extra={"cache": str(cache.key), "reason": str(error)})
            except Exception:
                log.exception("A round failed", extra={"cache": str(cache.key)})
            await asyncio.sleep(max(scaling.interval - (time.monotonic() - began_s), SPACING_S))

    async def _round(self, turns: _Turns) -> None:
        cache, manifest = turns.cache, turns.cache.manifest
        assert manifest is not None
        assert self._planner is not None
        assert self._threads is not None
        if turns.loop is None:
            turns.loop = Loop(
                key=str(cache.key),
                manifest=manifest,
                prices={},
                observer=NodeObserver(lambda: cache.nodes.clients),
                place=cache,
                planner=self._planner,
            )
        loop = turns.loop
        if loop.manifest != manifest or not loop.prices:
            loop.manifest = manifest
            loop.prices = {name: price_of(known).per_hour for name, known in manifest.classes.items()}
        loop.metrics = await metrics_of(self._around.api, manifest.cache, self._threads)
        done = await loop.run_once()
        now_s = time.time()
        cache.last = done
        await cache.plans.take(manifest.cache, done, _currency(manifest), now_s)
        self._metrics.take(cache.key, done, now_s)
        turns.woken.set()


def _currency(manifest: Any) -> str:
    spec = manifest.cache.spec
    return str(manifest.classes[spec.dram.classes[0]].spec.price.currency)
