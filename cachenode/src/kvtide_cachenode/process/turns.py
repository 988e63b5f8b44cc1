"""Turns of the event loop, shared among all that have more to do than fits in one.

Whoever is served often (a client with a long pipeline, a command of a million keys) does a part, and looks
whether the turn is `over`. Then it queues up, and others are served: those that wait here, one after the
other, and what came in at the sockets. So however many have much to do, a turn is about `TURN_S` long.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

TURN_S: Final = 0.005


class Turns:
    """The turns of the running loop. ``clock`` counts seconds from anywhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._until_s = 0.0
        self._counting = False  # whether it is known when this turn ends
        self._lent = False  # a task that waited has the next turn

    def spent(self) -> bool:
        """Whether this turn is over as far as anybody has looked."""
        return self._counting and self._clock() > self._until_s

    def over(self) -> bool:
        """Whether it is others' turn. Who looks has done something, and does no more when it is."""
        if not self._counting:
            self._count()
        return self._clock() > self._until_s

    def after(self, step: Callable[[], None]) -> None:
        """Have ``step`` run in a later turn, behind those that wait already. It raises nothing."""
        self._waiting.append(step)
        if not self._counting:
            self._count()

    async def share(self) -> None:
        """Between two parts of a long work: let others have their turn where this one is over."""
        if self.over():
            waiter = asyncio.get_running_loop().create_future()
            self.after(lambda: self._lend(waiter))
            await waiter

    def _count(self) -> None:
        self._counting = True
        self._begin()
        asyncio.get_running_loop().call_soon(self._next)

    def _begin(self) -> None:
        self._until_s = self._clock() + TURN_S

    def _next(self) -> None:
        """The loop has come round."""
        if not self._lent:
            self._begin()
        self._lent = False
        if not self._waiting:
            self._counting = False
            return
        while self._waiting and not self._lent and self._clock() <= self._until_s:
            self._waiting.popleft()()
        asyncio.get_running_loop().call_soon(self._next)

    def _lend(self, waiter: "asyncio.Future[None]") -> None:
        """Wake a task. It runs when the loop comes round again: that turn is its own from there on."""
        if not waiter.done():
            self._lent = True
            asyncio.get_running_loop().call_soon(self._begin)
            waiter.set_result(None)
