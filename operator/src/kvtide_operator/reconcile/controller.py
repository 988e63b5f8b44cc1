"""Whose turn it is: passes on every change and while something is under way, rounds at their interval."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from kvtide_operator.act.kubernetes.errors import NotLeaderError
from kvtide_operator.api.status import LookedAfterBy
from kvtide_operator.loop import Loop
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.planner.process import Planner
from kvtide_operator.process import Surroundings
from kvtide_operator.reconcile.access import history_keys, metrics_of
from kvtide_operator.reconcile.allowed import ALLOWED, Allowed
from kvtide_operator.reconcile.cache import LiveCache
from kvtide_operator.reconcile.hands import Hands
from kvtide_operator.reconcile.leadership import Leaders, Leadership
from kvtide_operator.reconcile.metrics import ReconcileMetrics
from kvtide_operator.reconcile.turns import SPACING_S, UNDER_WAY_S, Turns
from kvtide_operator.world.kinds import TIERED_CACHE, CacheKey

CONCURRENT_PASSES: Final = 16
FIRST_ROUNDS_S: Final = 0.1
"""So much later than that of the cache before begins a first round: plans are made one at a time."""
METRICS_THREADS: Final = 8


class Controller:
    """Looks after every cache in the store while this process leads."""

    def __init__(self, around: Surroundings, allowed: Allowed = ALLOWED) -> None:
        self._around = around
        self._allowed = allowed
        self._metrics = ReconcileMetrics(around.registry)
        self._turns: dict[CacheKey, Turns] = {}
        self._hands: Hands | None = None
        self._planner: Planner | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._passing = asyncio.Semaphore(CONCURRENT_PASSES)
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, term: int) -> None:
        """Begin with every cache there is; ``term`` goes into the documents for nodes."""
        around = self._around
        own = LookedAfterBy(release=around.release, lease=f"{around.namespace}/{around.lease}")
        leads = Leadership(term, own, Leaders(around.api), around.outgrow)
        self._hands = Hands(
            around.api, around.executor, around.events, around.store, around.namespace, leads, self._allowed
        )
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
            turns = self._turns[key] = Turns(LiveCache(key, self._hands), self._metrics)
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

    async def _end(self, turns: Turns, forgotten: CacheKey | None = None) -> None:
        for task in turns.tasks:
            task.cancel()
        await asyncio.gather(*turns.tasks, return_exceptions=True)
        await turns.cache.close()
        if forgotten is not None and self._planner is not None:
            await self._planner.forget(str(forgotten))

    async def _passes(self, turns: Turns) -> None:
        wait_s = 0.0
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await turns.woken.wait()
            except TimeoutError:
                pass
            turns.woken.clear()
            async with self._passing:
                wait_s = await turns.take_pass()
            await asyncio.sleep(min(SPACING_S, wait_s))

    async def _rounds(self, turns: Turns, wait_s: float) -> None:
        cache = turns.cache
        await asyncio.sleep(wait_s)
        while True:
            manifest = cache.manifest
            if manifest is None or cache.unplannable is not None:
                await asyncio.sleep(UNDER_WAY_S)
                continue
            scaling = manifest.cache.spec.scaling
            began_s = time.monotonic()
            await self.take_round(turns)
            await asyncio.sleep(max(scaling.interval - (time.monotonic() - began_s), SPACING_S))

    async def take_round(self, turns: Turns) -> None:
        """One round of a cache; the next pass writes what came of it."""
        try:
            await self._round(turns)
            turns.cache.round_failure = None
        except NotLeaderError:
            pass  # the controller is about to be stopped
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said in one place
            await turns.failed("round", error)
        turns.woken.set()

    async def _round(self, turns: Turns) -> None:
        cache, manifest = turns.cache, turns.cache.manifest
        assert manifest is not None
        assert self._planner is not None
        assert self._threads is not None
        if turns.loop is None:
            turns.loop = Loop(
                key=str(cache.key),
                manifest=manifest,
                observer=NodeObserver(lambda: cache.nodes.clients),
                place=cache,
                planner=self._planner,
            )
        loop = turns.loop
        manifest = replace(manifest, keys=await history_keys(self._around.api, manifest.cache))
        loop.manifest = manifest
        loop.metrics = await metrics_of(self._around.api, manifest.cache, self._threads)
        done = await loop.run_once()
        await cache.take_plan(done, _currency(manifest))
        self._metrics.take(cache.key, done, time.time())
        for reason, sentence in done.faults:
            await turns.went_on_without(reason, sentence)


def _currency(manifest: Any) -> str:
    spec = manifest.cache.spec
    return str(manifest.classes[spec.dram.classes[0]].spec.price.currency)
