"""Changing the tiers' capacities while they serve."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from kvtide_cachenode.contract.messages import ResizeProgress
from kvtide_cachenode.process.background import until_done
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.store import SsdLog, Store
from kvtide_cachenode.store.room import SLICE_BYTES

# Nothing could be freed: what is left is being sent, received or written, and ends when that does.
BLOCKED_S: Final = 0.01
# After this an answer says how far the shrink is instead of that it is done.
ANSWER_S: Final = 30.0

Tier = Literal["dram", "ssd"]


@dataclass(slots=True)
class _Shrink:
    """One under way: from how many bytes, and since when."""

    from_bytes: int
    since_s: float
    task: "asyncio.Task[Any]"


class Resizer:
    """One resize at a time; newer capacities take the place of those being worked towards."""

    def __init__(self, store: Store, failures: Failures) -> None:
        self._store = store
        self._failures = failures
        self._shrinks: dict[Tier, _Shrink] = {}
        self._ssd_bytes: int | None = None  # asked for last

    @property
    def progress(self) -> ResizeProgress | None:
        """The shrink under way, if any; of both tiers, DRAM's."""
        store = self._store
        now_s = time.monotonic()
        for tier, shrink in sorted(self._shrinks.items()):
            if shrink.task.done():
                continue
            if tier == "dram":
                sizes = store.capacity_bytes, store.used_bytes, store.resident_bytes()
            else:
                stats = store.lower[tier].stats()
                sizes = stats.cap_bytes, stats.used_bytes, stats.used_bytes
            return ResizeProgress(tier, shrink.from_bytes, *sizes, now_s - shrink.since_s)
        return None

    async def set_capacity(self, dram_bytes: int | None, ssd_bytes: int | None) -> bool:
        """Apply capacities, None for a tier that stays; False when newer ones were asked for meanwhile.

        A larger one holds at once. A smaller one holds for new values at once and is answered when the tier
        is under it, or after `ANSWER_S` (then `progress` says how far it is). Answering late, or not being
        waited for any more, ends nothing; a newer capacity does.
        """
        store = self._store
        if dram_bytes is not None:
            before = store.capacity_bytes
            store.set_capacity(dram_bytes)
            if store.over_capacity() and not self._shrinks_now("dram"):
                self._start("dram", before, self._shrink_dram)
        if ssd_bytes is not None:
            log, self._ssd_bytes = store.lower["ssd"], ssd_bytes
            self._start("ssd", log.cap_bytes, partial(self._set_ssd, log, ssd_bytes))
        tasks = [shrink.task for shrink in self._shrinks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=ANSWER_S)
        return (dram_bytes is None or store.capacity_bytes == dram_bytes) and (
            ssd_bytes is None or store.lower["ssd"].cap_bytes == ssd_bytes
        )

    async def settled(self) -> None:
        """Wait until no shrink is under way."""
        while tasks := [shrink.task for shrink in self._shrinks.values() if not shrink.task.done()]:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Leave a shrink where it is; the capacity stays what it was set to."""
        tasks = [shrink.task for shrink in self._shrinks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _shrinks_now(self, tier: Tier) -> bool:
        shrink = self._shrinks.get(tier)
        return shrink is not None and not shrink.task.done()

    def _start(self, tier: Tier, from_bytes: int, work: Callable[[], Awaitable[None]]) -> None:
        since_s = time.monotonic()
        if self._shrinks_now(tier):  # the one before ends by itself; this goes on from where it began
            from_bytes, since_s = self._shrinks[tier].from_bytes, self._shrinks[tier].since_s
        task = asyncio.create_task(until_done(f"resize of {tier}", self._failures, work))
        self._shrinks[tier] = _Shrink(from_bytes, since_s, task)

    async def _set_ssd(self, log: SsdLog, size_bytes: int) -> None:
        if size_bytes == self._ssd_bytes:  # else this is a second try, and a newer size was asked for
            await log.set_cap(size_bytes)

    async def _shrink_dram(self) -> None:
        while self._store.over_capacity():
            began_s = time.monotonic()
            moved = self._store.shrink(SLICE_BYTES)
            # Half of the time is the clients': what waits for several turns of the loop would wait long else.
            await asyncio.sleep(time.monotonic() - began_s if moved else BLOCKED_S)
