"""A node whose turns of the event loop are timed: for so long all clients wait.

    python -m benches.timed_node FILE serve …

FILE has the longest turn so far, in seconds of processor time: of the thread that serves, and of all threads
(one that decodes a document holds the lock that the other needs). Whoever reads them sets them to zero.
"""

import asyncio
import mmap
import struct
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from kvtide_cachenode.cli import main

LONGEST: Final = struct.Struct("dd")
# Turns that are shorter are not told apart.
TICK_S: Final = 0.0005


class Turns:
    """The two figures in a file that both sides have mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), LONGEST.size)

    def take(self) -> tuple[float, float]:
        """The longest turn since this was asked last: of the serving thread, of all threads."""
        serving_s, all_s = LONGEST.unpack(self._memory)
        LONGEST.pack_into(self._memory, 0, 0.0, 0.0)
        return serving_s, all_s

    def note(self, serving_s: float, all_s: float) -> None:
        """A turn took so long."""
        longest = LONGEST.unpack(self._memory)
        if serving_s > longest[0] or all_s > longest[1]:
            LONGEST.pack_into(self._memory, 0, max(serving_s, longest[0]), max(all_s, longest[1]))


def watch(turns: Turns) -> None:
    """Time the running loop's turns from now on."""
    loop = asyncio.get_running_loop()
    before = time.thread_time(), time.process_time()

    def tick() -> None:
        nonlocal before
        now = time.thread_time(), time.process_time()
        turns.note(now[0] - before[0], now[1] - before[1])
        before = now
        loop.call_later(TICK_S, tick)

    tick()


def serve(turns: Turns) -> None:
    """Run the node's program with a watched loop."""
    run = uvloop.run

    def watched(program: Coroutine[Any, Any, None]) -> None:
        async def both() -> None:
            watch(turns)
            await program

        run(both())

    uvloop.run = watched  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    path, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    serve(Turns(path))
