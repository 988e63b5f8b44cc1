"""`kvtide trace`: generate and record traces, and look at them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError, WorkError
from kvtide_operator.cli.record import record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtide_operator.workload.profiles import ProfileName
    from kvtide_operator.workload.sessions import Shape
    from kvtide_operator.workload.trace import Trace

PERCENTILES = (50, 80, 90, 99)


@click.group(name="trace")
def command() -> None:
    """Generate and record traces, and look at them."""


command.add_command(record)


@command.command()
@click.option("--profile", type=click.Choice(["chat", "api"]), default="chat", show_default=True,
              help="Whose statistics the trace has: a chatbot's or an API's.")  # fmt: skip
@click.option("--shape", type=click.Choice(["flat", "hill", "day"]), default="flat", show_default=True,
              help="The load: steady, up and down again once, or a daily wave.")  # fmt: skip
@click.option("--peak", type=float, default=4.0, show_default=True,
              help="The crest's rate over the trough's, for hill and day.")  # fmt: skip
@click.option("--requests", type=int, help="How many requests.  [default: 10000, without --duration]")
@click.option("--duration", help="How long instead, such as 2h or 90s.")
@click.option("--rate", type=float, help="Requests a second at the trough.  [default: the profile's]")
@click.option("--block-tokens", type=int, default=512, show_default=True,
              help="Tokens in a block; the profiles are fitted at 16.")  # fmt: skip
@options.seed("all that is random: equal seeds give equal traces", default=1)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="-",
              help="The file to write.  [default: standard output]")  # fmt: skip
def generate(
    profile: "ProfileName",
    shape: "Shape",
    peak: float,
    requests: int | None,
    duration: str | None,
    rate: float | None,
    block_tokens: int,
    seed: int,
    output: Path,
) -> None:
    """Write a synthetic trace as Mooncake JSONL."""
    from kvtide_operator.api.quantity import parse_duration
    from kvtide_operator.cli.output import check_writable
    from kvtide_operator.workload.generate import generate as generate_trace
    from kvtide_operator.workload.trace import TraceError
    from kvtide_operator.workload.writer import write_mooncake

    if str(output) != "-":
        check_writable("-o", output)
    try:
        trace = generate_trace(
            profile=profile,
            requests=10_000 if requests is None and duration is None else requests,
            duration_s=None if duration is None else parse_duration(duration),
            rate_per_s=rate,
            block_tokens=block_tokens,
            seed=seed,
            shape=shape,
            peak=peak,
        )
    except (TraceError, ValueError) as error:
        raise UserError(str(error)) from error
    if str(output) == "-":
        write_mooncake(trace, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        try:
            with output.open("wb") as file:
                write_mooncake(trace, file)
        except OSError as error:
            raise WorkError(f"-o {output}: {error.strerror or error}; it is not complete") from None
    click.echo(f"{trace.requests:,} requests in {trace.span_s:,.0f} s", err=True)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--block-tokens", type=int, help="Tokens in a block.  [default: derived from the rows]")
@options.as_json()
def info(file: Path, block_tokens: int | None, as_json: bool) -> None:
    """Show what a trace is like: lengths, blocks, how much of it is asked for again and how soon."""
    import msgspec

    from kvtide_operator.workload.readers import read_trace
    from kvtide_operator.workload.trace import TraceError

    try:
        trace = read_trace(file, block_tokens=block_tokens, require_blocks=False)
    except TraceError as error:
        raise UserError(str(error)) from error
    facts = _facts(trace)
    click.echo(msgspec.json.encode(facts)) if as_json else _show(facts)


def _facts(trace: "Trace") -> dict[str, Any]:
    """What there is to know, by the names of the JSON."""
    from kvtide_operator.workload.readers import NO_BLOCKS
    from kvtide_operator.workload.reuse import measure_reuse

    reused = measure_reuse(trace)
    return {
        "requests": trace.requests,
        "span_s": round(trace.span_s, 3),
        "observed_at": trace.observed_at,
        "input_tokens": _spread_of(trace.input_tokens),
        "output_tokens": _spread_of(trace.output_tokens),
        "block_tokens": trace.block_tokens,
        "blocks": len(trace.blocks),
        "unique_blocks": trace.unique_blocks,
        "hit_ratio_infinite": round(reused.infinite_hit_ratio, 4),
        **_hit_ratios(trace),
        "reuse_gap_s": _spread_of(reused.gap_s),
        "blocks_giving_90_percent_of_reuse": round(reused.top_share(0.9), 4),
        "notes": trace.notes if len(trace.blocks) else (*trace.notes, NO_BLOCKS),
    }


def _hit_ratios(trace: "Trace") -> dict[str, float | None]:
    """What of the blocks was found cached, in all, in the engines and in nodes; None where not all say."""
    all_hits, local = trace.hit_blocks, trace.local_hit_blocks
    external = None if all_hits is None or local is None else all_hits - local
    named = {"observed": all_hits, "of_engines": local, "of_nodes": external}
    blocks = max(len(trace.blocks), 1)
    return {
        f"hit_ratio_{name}": None if hits is None else round(float(hits.sum()) / blocks, 4)
        for name, hits in named.items()
    }


def _spread_of(values: "NDArray[Any]") -> dict[str, float] | None:
    """Mean, percentiles and maximum, or None of nothing."""
    import numpy as np

    if not len(values):
        return None
    percentiles = dict(zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True))
    named = {
        "mean": values.mean(),
        **{f"p{at}": value for at, value in percentiles.items()},
        "max": values.max(),
    }
    return {name: round(float(value), 3) for name, value in named.items()}


def _show(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        label = name.replace("_", " ")
        if name == "notes":
            for note in value:
                click.echo(f"note: {note}")
        elif isinstance(value, dict):
            click.echo(f"{label:<36}" + "  ".join(f"{key} {number:,.6g}" for key, number in value.items()))
        else:
            click.echo(
                f"{label:<36}" + ("-" if value is None else f"{value:,}" if value != str(value) else value)
            )
