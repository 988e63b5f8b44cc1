"""Scenarios that play at the same time, each with a cache of its own, in front of one operator."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.kubectl import new_namespace
from e2e.operator_process import operator


@dataclass(frozen=True, slots=True)
class Place:
    """Where scenarios play: the node's image, two namespaces, a folder for files."""

    image: str
    namespace: str
    other_namespace: str
    folder: Path


Scenario = Callable[[Place], Awaitable[None]]
UnderWay = dict[Scenario, asyncio.Task[None]]


@asynccontextmanager
async def under_way(
    scenarios: Sequence[Scenario],
    request: pytest.FixtureRequest,
    image: str,
    folder: Path,
    first: str = "pass",
) -> AsyncIterator[UnderWay]:
    """Start those of the scenarios that pytest was asked for, by their parameter ``scenario``.

    Args:
        first: see `operator`.
    """
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [item.callspec.params.get("scenario") for item in items if hasattr(item, "callspec")]
    async with new_namespace("e2e") as namespace, new_namespace("e2e") as other:
        place = Place(image, namespace, other, folder)
        async with operator(folder, namespace, other, first=first):
            tasks = {one: asyncio.ensure_future(one(place)) for one in scenarios if one in wanted}
            try:
                yield tasks
            finally:
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)


@asynccontextmanager
async def own_namespace(place: Place, scenario: str) -> AsyncIterator[tuple[Path, str]]:
    """A folder and a namespace for a scenario that has an operator of its own."""
    folder = place.folder / scenario
    folder.mkdir()
    async with new_namespace("e2e") as namespace:
        yield folder, namespace


def report(what: str, began_s: float) -> None:
    """Print a figure: how long ago something began."""
    print(f"\n[figure] {what}: {time.monotonic() - began_s:.1f} s")
