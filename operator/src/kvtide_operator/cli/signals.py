"""SIGTERM ends a command the way Ctrl-C does: everything it started is stopped first."""

import asyncio
import signal


def cancel_on_terminate() -> None:
    """Let SIGTERM cancel the running task, so that its contexts close what they opened."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
