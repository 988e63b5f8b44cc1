"""Turns a manifest into a running loop over local nodes."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from kvtide_operator.act.local import LocalPlace, end_with_parent
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.cli.planning import options_of, space_of
from kvtide_operator.cli.scenario import declared
from kvtide_operator.loop import Loop
from kvtide_operator.observe.history import TraceHistory
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.observe.recorded import RecordedHistory
from kvtide_operator.observe.season import Season
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.live import Goal, plan_window
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.trace import Trace

WARM_UP_WINDOWS = 3
"""Trace kept, in windows: one to plan for, the rest to know what was already cached when it began."""


@asynccontextmanager
async def local_loop(
    manifest: Manifest, *, clock: Callable[[], float] = time.time, before: Trace | None = None
) -> AsyncIterator[tuple[Loop, LocalPlace]]:
    """Nodes of the declared size on this machine and the loop over them; all nodes end with the context.

    Raises:
        ValueError: one of `MISTAKES`: what the manifest declares cannot be planned or started.
    """
    spec = manifest.cache.spec
    # Only DRAM: local nodes have no SSD tier to size.
    space = replace(space_of(manifest), tier_classes=())
    options = options_of(manifest, Kareto())
    goal = Goal(space, options.constraints, options.prefer)
    fields = declared(manifest)
    scenario_of = partial(_scenario, fields)
    place = LocalPlace(
        spec.nodes.replicas.min, spec.dram.capacity.initial, block_tokens=spec.model.block_tokens
    )
    # A fork would inherit the loop's sockets and handlers.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as planner:
        compiled = planner.submit(_plan_once, scenario_of, goal, spec.model.block_tokens)
        async with place:
            await asyncio.wrap_future(compiled)
            history = TraceHistory(WARM_UP_WINDOWS * spec.scaling.window)
            yield (
                Loop(
                    spec=spec,
                    goal=goal,
                    scenario_of=scenario_of,
                    storage_cost_per_hour=fields["dram_price"].per_hour,
                    observer=NodeObserver(place.clients, history),
                    history=history,
                    place=place,
                    planner=planner,
                    season=_season(spec),
                    clock=clock,
                    before=before,
                ),
                place,
            )


def _season(spec: TieredCacheSpec) -> Season | None:
    if spec.history is None:
        return None
    return Season(
        RecordedHistory(spec.history.url),
        period_s=int(spec.scaling.window),
        season_s=spec.scaling.season,
        keep_s=spec.history.keep,
    )


def _scenario(fields: dict[str, Any], trace: Trace, first_request: int) -> Scenario:
    return Scenario(trace=trace, first_request=first_request, **fields)


def _plan_once(scenario_of: Callable[[Trace, int], Scenario], goal: Goal, block_tokens: int) -> None:
    """Compile what planning needs: that takes a quarter of a minute the first time."""
    trace = generate(requests=20, rate_per_s=1.0, block_tokens=block_tokens)
    plan_window(scenario_of(trace, 0), goal, Configuration(goal.space.dram_min_bytes))
