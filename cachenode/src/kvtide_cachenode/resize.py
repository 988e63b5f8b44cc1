"""Changing a tier's capacity while it serves."""

import asyncio
import time
from typing import Final

from kvtide_cachenode.messages import ResizeProgress
from kvtide_cachenode.store import Store

# Evicted and given back between two turns of the loop: about a millisecond, so that replies do not wait.
SLICE_BYTES: Final = 4 * 1024 * 1024
# Nothing could be freed: what is left is being sent or received, and ends when that does.
BLOCKED_S: Final = 0.01
# After this an answer says how far the shrink is instead of that it is done.
ANSWER_S: Final = 30.0


class Resizer:
    """One shrink at a time; a newer capacity takes the place of the one being worked towards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shrinking: asyncio.Task[None] | None = None
        self._from_bytes = 0
        self._since_s = 0.0

    @property
    def progress(self) -> ResizeProgress | None:
        """The shrink under way, if any."""
        if self._shrinking is None or self._shrinking.done():
            return None
        store = self._store
        return ResizeProgress(
            "dram",
            self._from_bytes,
            store.capacity_bytes,
            store.used_bytes,
            store.resident_bytes(),
            time.monotonic() - self._since_s,
        )

    async def set_capacity(self, capacity_bytes: int) -> bool:
        """Apply a capacity; False when a newer one was asked for meanwhile.

        A larger one holds at once. A smaller one holds for new values at once and is answered when used and
        resident bytes are under it, or after `ANSWER_S` (then `progress` says how far it is).
        """
        if self.progress is None:
            self._from_bytes = self._store.capacity_bytes
            self._since_s = time.monotonic()
        self._store.set_capacity(capacity_bytes)
        if self.progress is None and self._store.over_capacity():
            self._shrinking = asyncio.create_task(self._shrink())
        if self._shrinking is not None:
            await asyncio.wait({self._shrinking}, timeout=ANSWER_S)
        return self._store.capacity_bytes == capacity_bytes

    async def stop(self) -> None:
        """Leave a shrink where it is; the capacity stays what it was set to."""
        if self._shrinking is not None:
            self._shrinking.cancel()
            await asyncio.wait({self._shrinking})

    async def _shrink(self) -> None:
        while self._store.over_capacity():
            moved = self._store.shrink(SLICE_BYTES)
            await asyncio.sleep(0 if moved else BLOCKED_S)
