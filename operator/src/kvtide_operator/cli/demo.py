"""``kvtide demo``: two real nodes, a real workload, and the loop that sizes them, in two minutes."""

import asyncio
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from kvtide_operator.api.manifest import Manifest
    from kvtide_operator.cli.report.story import Story
    from kvtide_operator.replay.report import ReplayReport, ReplayTotals
    from kvtide_operator.workload.trace import Trace

PLAY_S = 100.0
"""How long the workload is played; with start-up and report the demo takes about two minutes."""
CALM_S = 8.0
"""How long the loop goes on after the last request."""
SHORTEST_ROUND_S = 0.5
"""A round is not started more often than this, however fast the clock runs."""
BUSY = 0.5
"""Of their time without a cache, how much the engines in front of a given trace spend on its prompts."""
CONNECTIONS = 8
REPORT = Path("out/demo.html")
HOURS = 1.0
RATE_PER_S = 0.7
PEAK = 4.6
SEED = 7


@click.command("demo")
@click.option("--trace", "trace_file", type=click.Path(path_type=Path), help="A trace to play instead.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=REPORT,
    show_default=True,
    help="Where the HTML report goes.",
)
def command(trace_file: Path | None, report_file: Path) -> None:
    """Watch two cache nodes being sized for a workload that grows and then shrinks.

    The nodes are real and keep real bytes; only the clock runs faster and a block is smaller than in life.
    """
    from kvtide_operator.api.manifest import load_manifest
    from kvtide_operator.cli.mistakes import MISTAKES
    from kvtide_operator.cli.output import check_writable
    from kvtide_operator.cli.signals import run
    from kvtide_operator.workload.generate import generate
    from kvtide_operator.workload.readers import read_trace

    if report_file == REPORT:
        _make_folder(report_file.parent)
    check_writable("--report", report_file)
    manifest = load_manifest(Path(__file__).with_name("demo.yaml"))
    try:
        trace = (
            read_trace(trace_file)
            if trace_file
            else generate(
                profile="chat",
                duration_s=HOURS * 3600,
                rate_per_s=RATE_PER_S,
                shape="hill",
                peak=PEAK,
                seed=SEED,
            )
        )
        if trace_file:
            if not trace.span_s:
                raise UserError(
                    f"{trace_file}: all requests come at one time; give a trace that spans minutes or hours"
                )
            manifest = _fitted(manifest, trace)
        story, played = run(_play(manifest, trace))
    except MISTAKES as error:
        raise UserError(str(error)) from None
    _finish(story, played, report_file, trace_file)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; name a file with --report") from None


def _fitted(manifest: "Manifest", trace: "Trace") -> "Manifest":
    """The demo's cache in front of as many engines as the trace keeps busy, and at the knee of its frontier.

    How long its prompts are is not known in advance, and with them which latency can be asked for.
    """
    from kvtide_operator.api.tieredcache import Objective
    from kvtide_operator.planner.scenario import engine_profile
    from kvtide_operator.simulate.engine.step_times import prefill_chunk_s

    chunk_tokens = 8192.0
    engine_tokens_s = chunk_tokens / float(
        prefill_chunk_s(engine_profile(manifest).tables, chunk_tokens, 0.0)
    )
    asked_tokens_s = float(trace.input_tokens.sum()) / max(trace.span_s, 1.0)
    spec = manifest.cache.spec
    engines = math.ceil(asked_tokens_s / engine_tokens_s / BUSY)
    spec = spec.model_copy(
        update={
            "engine": spec.engine.model_copy(update={"instances": engines}),
            "model": spec.model.model_copy(update={"block_tokens": trace.block_tokens}),
            "objective": Objective(prefer="Balanced"),
        }
    )
    return replace(manifest, cache=manifest.cache.model_copy(update={"spec": spec}))


@dataclass
class _Clock:
    """Seconds since the epoch on a clock that runs ``speed`` times as fast as the wall's."""

    speed: float
    began_wall_s: float
    began_s: float

    def __call__(self) -> float:
        return self.began_wall_s + (time.monotonic() - self.began_s) * self.speed


async def _play(manifest: "Manifest", trace: "Trace") -> "tuple[Story, ReplayReport]":
    from kvtide_operator.cli.assemble import local_loop
    from kvtide_operator.cli.report.live import LiveView
    from kvtide_operator.cli.report.story import Story
    from kvtide_operator.decide.steps import Target
    from kvtide_operator.planner.scenario import kv_bytes_per_token
    from kvtide_operator.replay.player import ReplayOptions, replay
    from kvtide_operator.replay.targets import parse_targets

    clock = _Clock(trace.span_s / PLAY_S, time.time(), time.monotonic())
    scaling = manifest.cache.spec.scaling
    fixed_bytes = manifest.cache.spec.dram.capacity.max
    async with local_loop(manifest, clock=clock) as (loop, place):
        story = Story(fixed_bytes, loop.cost_per_hour(Target(fixed_bytes), None))
        seen = _Seen()
        targets = parse_targets(",".join(place.addresses))
        options = ReplayOptions(
            block_bytes=kv_bytes_per_token(manifest) * trace.block_tokens,
            speed=clock.speed,
            connections=CONNECTIONS,
            clock=clock,
        )
        began_s = clock()
        with LiveView(f"kvtide demo: {trace.requests:,} requests, clock × {clock.speed:.0f}") as live:
            player = asyncio.create_task(replay(trace, targets, options, seen.progress))
            try:
                while not player.done() or clock() - began_s < trace.span_s + CALM_S * clock.speed:
                    done = await loop.run_once()
                    story.add(done, clock() - began_s, seen.hit_ratio_since_last())
                    live.show(story, done)
                    await asyncio.sleep(max(scaling.interval / clock.speed, SHORTEST_ROUND_S))
                return story, await player
            finally:
                player.cancel()


class _Seen:
    """What the engines' stand-in has seen since the round before."""

    def __init__(self) -> None:
        self._hit = self._requested = 0
        self._hit_before = self._requested_before = 0

    def progress(self, totals: "ReplayTotals") -> None:
        self._hit, self._requested = totals.blocks_hit, totals.blocks_requested

    def hit_ratio_since_last(self) -> float | None:
        hit, requested = self._hit - self._hit_before, self._requested - self._requested_before
        self._hit_before, self._requested_before = self._hit, self._requested
        return hit / requested if requested else None


def _finish(story: "Story", played: "ReplayReport", report_file: Path, trace_file: Path | None) -> None:
    from kvtide_operator.cli.output import write_file
    from kvtide_operator.cli.report.page import render

    capacities = [sample.capacity_bytes >> 20 for sample in story.samples]
    figures = {
        "storage cost against the fixed size": f"−{story.saved:.0%}" if story.saved is not None else "none",
        "of the blocks asked for were hit": f"{played.prefix_hit_ratio or 0:.1%}",
        "capacity, smallest to largest": f"{min(capacities)}–{max(capacities)} MiB",
        "live resizes": str(len(story.moves)),
        "failed requests": str(played.errors),
        "wrong bytes": str(played.wrong_bytes),
    }
    source = trace_file.name if trace_file else "a generated chat workload"
    page = render(
        story,
        title="kvtide: two cache nodes, sized while they serve",
        summary=(
            f"{played.requests:,} requests of {source} over {story.hours:.1f} hours of the cache's clock, "
            f"played in {played.wall_s:.0f} s. 1 MiB stands for 1 GiB; the fixed size is the upper bound."
        ),
        figures=figures,
    )
    for meaning, figure in figures.items():
        click.echo(f"{figure:>12}  {meaning}")
    write_file("--report", report_file, page.encode())
    click.echo(f"report: {report_file}")
    if played.errors or played.wrong_bytes or played.gave_up:
        raise click.exceptions.Exit(1)
