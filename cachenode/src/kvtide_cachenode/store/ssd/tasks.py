"""Tasks that nobody's cancellation ends."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from kvtide_cachenode.process.background import report

T = TypeVar("T")


class Tasks:
    """Work that goes on when whoever asked for it is cancelled; `settle` waits for all of it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Run ``work`` as a task; awaiting what is returned may be cancelled without ending it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(partial(report, "store task"))
        shielded = asyncio.shield(task)
        shielded.add_done_callback(_seen)
        return shielded

    async def settle(self, seconds: float) -> None:
        """Wait until nothing runs, at most this long."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=seconds)


def _seen(done: "asyncio.Future[Any]") -> None:
    """Whoever gave up waiting does not ask how it ended; that is reported already."""
    if not done.cancelled():
        done.exception()
