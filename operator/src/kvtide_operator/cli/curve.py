"""`kvtide curve`: hit ratio against capacity."""

import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from kvtide_operator.simulate.cache.hit_curve import HitCurve
    from kvtide_operator.workload.trace import Trace

GIB = 2**30
BAR_CELLS = 40
MAX_POINTS = 1000
PLOTS = (".svg", ".png", ".pdf")
TOKEN_BYTES = 128 << 10
"""What a token's KV takes where nobody says: that of Llama-3.1-8B, in blocks of 512 tokens 64 MiB."""


@click.command(context_settings={"show_default": True})
@click.argument("trace", type=click.Path(path_type=Path))
@options.manifest(required=False, what="Manifest, for the model's KV.")
@click.option(
    "--block-bytes", metavar="SIZE", help="Bytes of one of the trace's blocks.  [default: 128Ki a token]"
)
@click.option("--block-tokens", type=int, help="Tokens in a block.  [default: derived from the rows]")
@click.option("--at", metavar="SIZE,…", help="Capacities to show.  [default: powers of two over the curve]")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the curve into this file (.svg, .png or .pdf).",
)
@options.as_json()
def command(
    trace: Path,
    manifest_file: Path | None,
    block_bytes: str | None,
    block_tokens: int | None,
    at: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show the prefix hit ratio an LRU cache of any size has on TRACE, exactly and in one pass.

    What a block takes is its tokens times what a token takes: with -f as the manifest's model says.
    """
    began_s = time.perf_counter()
    from kvtide_operator.cli.mistakes import MISTAKES
    from kvtide_operator.cli.output import check_writable
    from kvtide_operator.simulate.cache.curve import hit_curve
    from kvtide_operator.workload.readers import read_trace

    check_writable("--plot", plot)
    if plot and plot.suffix not in PLOTS:
        raise UserError(f"--plot {plot}: its name must end with {', '.join(PLOTS)}")
    if manifest_file is not None and block_bytes is not None:
        raise UserError("--block-bytes and -f both say what a block takes; leave one of them out")
    given_bytes = None if block_bytes is None else _size("--block-bytes", block_bytes)
    try:
        token_bytes = TOKEN_BYTES if manifest_file is None else _token_bytes(manifest_file)
        requests = read_trace(trace, block_tokens=block_tokens)
    except MISTAKES as error:
        raise UserError(str(error)) from None
    bytes_per_block = given_bytes or token_bytes * requests.block_tokens
    distances, stack_distance_s = _timed_distances(requests)
    curve = hit_curve(requests, distances)
    capacities = (
        [_size("--at", text) for text in at.split(",")] if at else _powers_of_two(curve, bytes_per_block)
    )
    if len(capacities) > MAX_POINTS:
        raise UserError(f"--at: {len(capacities):,} capacities are more than {MAX_POINTS:,}; give fewer")
    points = [(capacity, curve.hit_ratio_at(capacity // bytes_per_block)) for capacity in capacities]
    facts = {
        "points": [{"capacity_gib": capacity / GIB, "hit_ratio": ratio} for capacity, ratio in points],
        "hit_ratio_infinite": curve.hit_ratio_infinite,
        "blocks": len(requests.blocks),
        "unique_blocks": requests.unique_blocks,
        "block_tokens": requests.block_tokens,
        "block_bytes": bytes_per_block,
        "observed_at": requests.observed_at,
        "notes": requests.notes,
        "stack_distance_s": stack_distance_s,
        "wall_s": time.perf_counter() - began_s,
    }
    if as_json:
        _print_json(facts)
    else:
        _print_table(facts)
    if plot:
        _plot(curve, points, bytes_per_block, plot, trace.name)


def _token_bytes(manifest_file: Path) -> int:
    from kvtide_operator.api.manifest import load_manifest
    from kvtide_operator.planner.scenario import kv_bytes_per_token

    return kv_bytes_per_token(load_manifest(manifest_file))


def _size(option: str, text: str) -> int:
    from kvtide_operator.api.quantity import parse_quantity

    try:
        size = parse_quantity(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None
    if size < 1:
        raise UserError(f"{option}: {text!r} is no size; give at least one byte")
    return size


def _timed_distances(trace: "Trace") -> "tuple[Any, float]":
    """The stack distances, and the seconds they took without loading the compiled code."""
    from kvtide_operator.simulate.cache.stack_distance import stack_distances

    stack_distances(trace.blocks[:0], 0)
    began_s = time.perf_counter()
    distances = stack_distances(trace.blocks, trace.unique_blocks)
    return distances, time.perf_counter() - began_s


def _powers_of_two(curve: "HitCurve", bytes_per_block: int) -> list[int]:
    """From the last power of two below the first rise of the curve to the first one above its end, bytes."""
    if not len(curve.capacity_blocks):
        return [bytes_per_block]
    first, last = (int(curve.capacity_blocks[end]) * bytes_per_block for end in (0, -1))
    return [1 << bits for bits in range(first.bit_length() - 1, (last - 1).bit_length() + 1)]


def _print_json(facts: dict[str, Any]) -> None:
    import msgspec

    click.echo(msgspec.json.encode(facts))


def _print_table(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    from kvtide_operator.api.quantity import format_quantity

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("capacity", justify="right")
    table.add_column("hit ratio", justify="right")
    table.add_column("of infinite")
    infinite = facts["hit_ratio_infinite"]
    for point in facts["points"]:
        bar = ProgressBar(total=infinite or 1.0, completed=point["hit_ratio"], width=BAR_CELLS)
        table.add_row(f"{point['capacity_gib']:,.6g} GiB", f"{point['hit_ratio']:.3f}", bar)
    table.add_row("infinite", f"{infinite:.3f}", "")
    Console().print(table)
    click.echo(
        f"{facts['blocks']:,} blocks of {facts['block_tokens']:,} tokens and"
        f" {format_quantity(facts['block_bytes'])}, {facts['unique_blocks']:,} different;"
        f" stack distances in {facts['stack_distance_s'] * 1e3:.1f} ms, all in {facts['wall_s']:.2f} s"
    )
    if facts["observed_at"] == "node":
        click.echo("note: inferred by nodes behind the engines' GPU caches, which took their hits first")
    for note in facts["notes"]:
        click.echo(f"note: {note}")


def _plot(
    curve: "HitCurve", points: list[tuple[int, float]], bytes_per_block: int, file: Path, title: str
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from kvtide_operator.cli.output import write_file

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step(
        curve.capacity_blocks * (bytes_per_block / GIB), curve.hit_ratio, where="post", label="LRU, exact"
    )
    axes.plot([capacity / GIB for capacity, _ in points], [ratio for _, ratio in points], "o")
    axes.axhline(curve.hit_ratio_infinite, color="grey", linestyle="--", label="infinite cache")
    axes.set(xscale="log", xlabel="capacity, GiB", ylabel="prefix hit ratio", title=title, ylim=(0, None))
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(loc="lower right")
    drawn = BytesIO()
    figure.savefig(drawn, format=file.suffix[1:])
    write_file("--plot", file, drawn.getvalue())
