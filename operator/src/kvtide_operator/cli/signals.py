"""SIGTERM ends a command the way Ctrl-C does: everything it started is stopped first."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end; SIGTERM and Ctrl-C cancel it, so that its contexts close what they opened.

    Raises:
        KeyboardInterrupt: it was told to stop.
    """

    async def stoppable() -> Result:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
