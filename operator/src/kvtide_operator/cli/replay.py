"""`kvtide replay`: play a trace against servers that speak the Redis protocol."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from kvtide_operator.replay.report import ReplayReport, ReplayTotals

BAR_AFTER_S = 2.0
"""A progress bar appears once a replay has taken longer than this."""

CONNECTIONS_MAX = 256
TOKEN_BYTES = 128
"""Bytes that stand in for a token's KV: 64 KiB for a block of 512, which take 64 MiB of Llama-3.1-8B."""
BLOCK_BYTES_MIN = 64
BLOCK_BYTES_MAX = 512 * 1024 * 1024
"""The longest bulk string of the Redis protocol."""


@click.command(context_settings={"show_default": True})
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--target",
    required=True,
    metavar="URL",
    help="redis://[[user]:password@]HOST:PORT[,…]; keys are spread over several by Redis Cluster's slots.",
)
@click.option(
    "--speed", type=float, help="Multiple of the trace's own pace.  [default: as fast as the servers answer]"
)
@click.option(
    "--block-bytes", metavar="SIZE", help="Bytes that stand in for one block.  [default: 128 a token]"
)
@click.option("--limit", type=click.IntRange(min=1), help="Play only so many requests.")
@click.option(
    "--connections",
    type=click.IntRange(1, CONNECTIONS_MAX),
    default=1,
    help="Most requests in flight; with 1 the order of accesses is exactly the trace's.",
)
@options.seed("the blocks' bytes", default=1)
@click.option(
    "--no-report", is_flag=True, help="Be a foreign client: send kvtide nodes no line about each request."
)
@options.as_json()
def command(
    trace: Path,
    target: str,
    speed: float | None,
    block_bytes: str | None,
    limit: int | None,
    connections: int,
    seed: int,
    no_report: bool,
    as_json: bool,
) -> None:
    """Play TRACE against servers that speak the Redis protocol: kvtide nodes, Redis, Valkey.

    Each request, root first: EXISTS block by block up to the first miss, GET for the hits, SET for every
    block from the first miss on. Every loaded byte is verified. Keys are kvt:replay:<block id>; what the
    servers hold under these keys is used and overwritten.

    Exit code 1: a wrong byte was loaded, or the run gave up on a target that stopped answering.
    """
    import asyncio

    import msgspec
    import uvloop

    from kvtide_operator.replay.player import ReplayOptions, TargetError, replay
    from kvtide_operator.replay.targets import parse_targets
    from kvtide_operator.workload.readers import read_trace
    from kvtide_operator.workload.trace import TraceError

    if speed is not None and not 0 < speed < float("inf"):
        raise UserError(f"--speed {speed:g} is no pace; give a number above 0, such as 1 or 100")
    given_bytes = None if block_bytes is None else _block_bytes(block_bytes)
    try:
        targets = parse_targets(target)
        requests = read_trace(trace)
    except (TraceError, ValueError) as error:
        raise UserError(str(error)) from None
    options = ReplayOptions(
        block_bytes=given_bytes
        or min(max(TOKEN_BYTES * requests.block_tokens, BLOCK_BYTES_MIN), BLOCK_BYTES_MAX),
        speed=speed,
        connections=connections,
        report_requests=not no_report,
        seed=seed,
    )
    for note in requests.notes:
        click.echo(note, err=True)
    if limit is not None:
        requests = requests.between(0, min(limit, requests.requests))
    bar = _Bar(requests.requests)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            report = runner.run(replay(requests, targets, options, bar.show))
        except TargetError as error:
            raise UserError(str(error)) from None
        finally:
            bar.close()
    click.echo(msgspec.json.encode(report).decode() if as_json else _text(report))
    if report.wrong_bytes or report.gave_up:
        raise SystemExit(1)


def _block_bytes(text: str) -> int:
    from kvtide_operator.api.quantity import format_quantity, parse_quantity

    try:
        size = parse_quantity(text)
    except ValueError as error:
        raise UserError(f"--block-bytes: {error}") from None
    if not BLOCK_BYTES_MIN <= size <= BLOCK_BYTES_MAX:
        bounds = f"{BLOCK_BYTES_MIN} bytes to {format_quantity(BLOCK_BYTES_MAX)}"
        raise UserError(f"--block-bytes {text} is no length that a block can have; give {bounds}")
    return size


class _Bar:
    """A progress bar on stderr, where that is a terminal and the replay takes long enough to need one."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._progress: Progress | None = None

    def show(self, totals: "ReplayTotals") -> None:
        """Draw what has been played."""
        if self._progress is None:
            if totals.elapsed_s < BAR_AFTER_S:
                return
            self._progress = self._begin()
        ratio = totals.prefix_hit_ratio or 0.0
        self._progress.update(
            self._progress.task_ids[0],
            completed=totals.requests,
            description=f"hit ratio {ratio:.3f}, {totals.errors} errors",
        )

    def _begin(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        progress.add_task("", total=self._requests)
        progress.start()
        return progress

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()


def _text(report: "ReplayReport") -> str:
    blocks = report.blocks_requested, report.blocks_looked_up, report.blocks_hit
    get = report.get_gb_s, report.get_p50_ms, report.get_p99_ms
    rows = [
        ("requests", f"{report.requests:,} in {report.wall_s:.1f} s"),
        ("blocks", "{:,} requested, {:,} looked up, {:,} hit".format(*blocks)),
        ("prefix hit ratio", _figure(report.prefix_hit_ratio)),
        ("GET", "{} GB/s, p50 {} ms, p99 {} ms".format(*map(_figure, get))),
        ("SET", f"{_figure(report.set_gb_s)} GB/s, p99 {_figure(report.set_p99_ms)} ms"),
        ("EXISTS", f"p99 {_figure(report.exists_p99_ms)} ms"),
        ("wrong bytes", f"in {report.wrong_bytes:,} values"),
        ("errors", f"{report.errors:,}"),
        *(("", reason) for reason in report.error_reasons),
    ]
    if report.behind_max_s is not None:
        rows.append(("behind the pace", f"{report.behind_max_s:.3f} s at most"))
    if report.gave_up is not None:
        rows.append(("gave up", report.gave_up))
    return "\n".join(f"{label:<18}{text}" for label, text in rows)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
