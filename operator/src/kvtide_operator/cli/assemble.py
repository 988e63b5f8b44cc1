"""Turns a manifest into a running loop over local nodes."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click

from kvtide_operator.act.local import LocalPlace
from kvtide_operator.act.node_options import ssd_options, trace_options
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.decide.target import initial_target
from kvtide_operator.loop import Loop
from kvtide_operator.observe.nodes import NodeObserver
from kvtide_operator.planner.process import Planner
from kvtide_operator.workload.trace import Trace


@asynccontextmanager
async def local_loop(
    manifest: Manifest, *, clock: Callable[[], float] = time.time, before: Trace | None = None
) -> AsyncIterator[tuple[Loop, LocalPlace]]:
    """Nodes of the declared size on this machine and the loop over them; all nodes end with the context.

    Raises:
        ValueError: one of `MISTAKES`: what the manifest declares cannot be planned or started.
    """
    spec = manifest.cache.spec

    def options(ssd_class: str | None) -> list[str]:
        if ssd_class is None:
            return trace_options(spec)
        return [*trace_options(spec), *ssd_options(spec, manifest.classes[ssd_class].spec)]

    place = LocalPlace(
        spec.nodes.replicas.min,
        initial_target(spec),
        ssd_class=spec.ssd.classes[0] if spec.ssd else None,
        options=options,
        say=lambda sentence: click.echo(sentence, err=True),
    )
    async with Planner() as planner, place:
        await planner.warm_up(manifest)
        yield (
            Loop(
                key=manifest.cache.metadata.name,
                manifest=manifest,
                observer=NodeObserver(lambda: place.clients),
                place=place,
                planner=planner,
                clock=clock,
                before=before,
            ),
            place,
        )
