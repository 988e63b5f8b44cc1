"""Work beside the commands: what fails is noted, and goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kvtide_cachenode.process.failures import Failures

# After an unexpected exception, work that must be done is tried again after so long.
RETRY_S: Final = 1.0
# Under this word the net notes what reached the event loop.
LOOP: Final = "event loop"


async def every(
    seconds: float, where: str, failures: Failures, work: Callable[[], Awaitable[None] | None]
) -> None:
    """Do ``work`` each so many seconds until cancelled; a round that fails is noted, the next one comes."""
    while True:
        await asyncio.sleep(seconds)
        try:
            waiting = work()
            if waiting is not None:
                await waiting
        except Exception as error:  # noqa: BLE001 - noted, whatever it is
            failures.note(where, error)


async def until_done(where: str, failures: Failures, work: Callable[[], Awaitable[object]]) -> None:
    """Do ``work``, anew after `RETRY_S` when it fails, until it returns or this is cancelled."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - noted, whatever it is
            failures.note(where, error)
        else:
            return
        await asyncio.sleep(RETRY_S)


def net(loop: asyncio.AbstractEventLoop, failures: Failures) -> None:
    """Note what nobody else does: exceptions in callbacks, and of tasks that nobody waited for.

    Parts that know no `Failures` report by `report`, with a word of their own.
    """

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(context["message"])
        failures.note(context.get("where", LOOP), error, context["message"])

    loop.set_exception_handler(note)


def report(where: str, done: "asyncio.Future[Any]") -> None:
    """A done-callback: hand what a task raised to the net, under ``where``."""
    if not done.cancelled() and (error := done.exception()) is not None:
        context = {"message": f"a task of {where} failed", "exception": error, "where": where}
        done.get_loop().call_exception_handler(context)
