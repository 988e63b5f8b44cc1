"""Rounds of the event loop, counted: with a crowd of clients one of them need not end by itself.

As long as 1,024 sockets were ready at once, libuv asks which are ready now, up to 48 times, before anything
else has its turn: timers, tasks, the admin port. So where there may be as many, each is read once a round.
"""

import asyncio
from typing import Final

# From so many connections on a round may be that long. Below, nothing is counted.
CROWD: Final = 1_000


class Rounds:
    """``number`` is of this round, once somebody asked."""

    def __init__(self) -> None:
        self._number = 0
        self._counting = False

    @property
    def number(self) -> int:
        """Another one in each round."""
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_soon(self._next)
        return self._number

    def _next(self) -> None:
        self._number += 1
        self._counting = False
