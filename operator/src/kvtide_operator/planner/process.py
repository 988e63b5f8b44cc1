"""The planning process as the loop sees it: tasks in turn, each with a deadline; replaced when lost."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kvtide_operator.act.parent import end_with_parent
from kvtide_operator.observe.page import Page

if TYPE_CHECKING:
    from kvtide_operator.api.manifest import Manifest
    from kvtide_operator.plan.proposal import Heard, Plan
    from kvtide_operator.plan.speeds import Speeds
    from kvtide_operator.simulate.configuration import Configuration
    from kvtide_operator.simulate.engine.pace import Pace
    from kvtide_operator.workload.trace import Trace

TASK_TIMEOUT_S = 300.0
"""For one task, compiling included; a process that takes longer is ended, and its successor begins anew."""


class PlannerLostError(RuntimeError):
    """The planning process ended or took too long; a new one has been started and knows nothing yet."""


class Planner:
    """Asks the planning process; callers take turns in the order they came.

    Attributes:
        lives: planning processes so far. Whoever told an earlier one something tells it again.
    """

    def __init__(self) -> None:
        self.lives = 0
        self._pool: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def warm_up(self, manifest: "Manifest") -> None:
        """Compile what planning for this manifest needs."""
        await self._ask("warm_up", manifest)

    async def check(self, manifest: "Manifest") -> str | None:
        """`planning.check`: why no load could be planned for.

        Raises:
            PlannerLostError: ask again.
        """
        reason: str | None = await self._ask("check", manifest)
        return reason

    async def take_in(
        self,
        key: str,
        manifest: "Manifest",
        pages: tuple[Page, ...],
        now_s: float,
        before: "Trace | None" = None,
    ) -> "Heard":
        """`planning.take_in`: new trace lines to what was asked of the cache.

        Raises:
            PlannerLostError: tell everything again.
        """
        heard: Heard = await self._ask("take_in", key, manifest, pages, now_s, before)
        return heard

    async def search(
        self,
        key: str,
        manifest: "Manifest",
        current: "Configuration",
        roots: tuple[int, ...] = (),
        pace: "Pace | None" = None,
    ) -> "tuple[Plan, Speeds] | None":
        """`planning.search`: the plan for what was last taken in, and how fast its tiers are.

        Raises:
            PlannerLostError: tell everything again.
            SimulationError: the window cannot be simulated.
        """
        found: tuple[Plan, Speeds] | None = await self._ask("search", key, manifest, current, roots, pace)
        return found

    async def forget(self, key: str) -> None:
        """The cache is gone."""
        await self._ask("forget", key)

    async def _ask(self, work: str, *details: Any) -> Any:
        async with self._turn:
            assert self._pool is not None, "use it in `async with`"
            try:
                async with asyncio.timeout(TASK_TIMEOUT_S):
                    return await asyncio.wrap_future(self._pool.submit(_at_the_bench, work, details))
            except (BrokenProcessPool, TimeoutError) as error:
                self._end()
                self._start()
                raise PlannerLostError(
                    "the planning process ended unexpectedly"
                    if isinstance(error, BrokenProcessPool)
                    else f"the planning process took longer than {TASK_TIMEOUT_S:.0f} s and was ended"
                ) from None

    def _start(self) -> None:
        self.lives += 1
        # A fork would inherit the loop's sockets and handlers.
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent)

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):  # its public end waits for the task
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


def _at_the_bench(work: str, details: tuple[Any, ...]) -> Any:
    # Imported there and not here: it brings compilers and solvers, which the watching process does not need.
    from kvtide_operator.planner import planning

    return getattr(planning, work)(*details)
