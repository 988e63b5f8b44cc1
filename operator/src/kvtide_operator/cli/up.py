"""``kvtide up``: the operator without a cluster."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from kvtide_operator.api.manifest import Manifest
    from kvtide_operator.loop import Round
    from kvtide_operator.workload.trace import Trace


@click.command("up")
@options.manifest()
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(path_type=Path),
    help="Workload to plan for until the nodes have seen one window of their own.",
)
@click.option("--once", is_flag=True, help="Run one round, then stop the nodes.")
@options.as_json("Print one JSON object a round.")
def command(manifest_file: Path, trace_file: Path | None, once: bool, as_json: bool) -> None:
    """Start the nodes a TieredCache declares on this machine and keep them at the right size.

    Point Redis-protocol clients at the addresses it prints. Stop it with Ctrl-C: the nodes end with it.
    """
    from kvtide_operator.api.manifest import load_manifest
    from kvtide_operator.cli.mistakes import MISTAKES
    from kvtide_operator.cli.signals import run
    from kvtide_operator.workload.readers import read_trace

    try:
        manifest = load_manifest(manifest_file)
        before = read_trace(trace_file) if trace_file else None
        run(_up(manifest, before, once=once, as_json=as_json))
    except MISTAKES as error:
        raise UserError(str(error)) from None
    except KeyboardInterrupt:
        click.echo("stopped; the nodes ended with it", err=True)


async def _up(manifest: "Manifest", before: "Trace | None", *, once: bool, as_json: bool) -> None:
    from kvtide_operator.cli.assemble import local_loop

    interval_s = manifest.cache.spec.scaling.interval
    async with local_loop(manifest, before=before) as (loop, place):
        click.echo(f"nodes serve at redis://{','.join(place.addresses)}", err=True)
        while True:
            _report(await loop.run_once(), as_json=as_json)
            if once:
                return
            await asyncio.sleep(interval_s)


def _report(done: "Round", *, as_json: bool) -> None:
    from kvtide_operator.cli.report.rounds import round_as_json, round_as_text

    click.echo(json.dumps(round_as_json(done)) if as_json else round_as_text(done))
