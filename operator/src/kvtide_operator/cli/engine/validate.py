"""`kvtide engine validate`: the simulator held against a running engine and the node behind it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError, WorkError
from kvtide_operator.cli.output import check_writable, write_file

if TYPE_CHECKING:
    from kvtide_operator.probe.trial import TrialOptions
    from kvtide_operator.probe.validation import Row

HEADER = (
    "configuration              run  requests     s  load   TTFT s  simul.   error    tok/s  simul.  error"
    "   hits  simul.   error"
)


@click.command("validate", context_settings={"show_default": True})
@click.argument("url")
@click.option("--node", required=True, metavar="URL", help="Admin API of the only node behind the engine.")
@click.option(
    "--texts",
    required=True,
    type=click.Path(path_type=Path),
    help="Real texts: JSON lines with prompt or input_tok_ids.",
)
@click.option("--model", metavar="NAME", help="As the engine calls it.  [default: the only one it serves]")
@click.option(
    "--dram",
    "dram_sizes",
    multiple=True,
    metavar="SIZE",
    help="DRAM of the node, one configuration each.  [default: a quarter to all of what the requests store]",
)
@click.option("--requests", default=300, type=click.IntRange(10, 100_000), help="Requests of a run.")
@click.option("--output-tokens", default=16, type=click.IntRange(1, 4096), help="Tokens of each answer.")
@click.option("--runs", default=2, type=click.IntRange(1, 10), help="How often each configuration is played.")
@click.option(
    "--load",
    default=0.7,
    type=click.FloatRange(0.05, 0.95),
    help="Offered load of the configuration that can serve least.",
)
@click.option("--chunk-tokens", default=2048, type=click.IntRange(2), help="--max-num-batched-tokens.")
@click.option("--max-sequences", default=256, type=click.IntRange(1), help="--max-num-seqs.")
@click.option("--ssd-speed", default="1Gi", metavar="SIZE", help="Bytes a second of the node's SSD.")
@click.option(
    "--calibration", "calibration_s", default=120.0, type=click.FloatRange(5.0), help="Seconds of it."
)
@click.option("--minutes", default=40.0, type=click.FloatRange(1.0), help="Most minutes of playing requests.")
@options.output("The file for the rows, as JSON lines.")
@options.seed("conversations and arrivals")
@options.as_json("Print one JSON object a row.")
def validate(
    url: str,
    node: str,
    texts: Path,
    model: str | None,
    dram_sizes: tuple[str, ...],
    ssd_speed: str,
    output: Path | None,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Play conversations of real texts on the vLLM at URL and on the simulator, and compare.

    vLLM runs with KvtideConnector and one node, which is emptied and resized for each configuration: use
    one that holds nothing of worth. The simulator is calibrated first, on other requests, and then plays
    the trace that the engine leaves in the node. If the node has an SSD, one configuration more uses it.

    Exit code 1: mean TTFT is off by more than 10 % and twice the difference of equal runs, throughput by more
    than 5 %, or the hit ratio by more than 0.01.
    """
    from kvtide_operator.api.quantity import parse_quantity
    from kvtide_operator.cli.signals import run
    from kvtide_operator.probe.trial import MISTAKES, TrialOptions
    from kvtide_operator.probe.validation import within

    check_writable("-o", output)
    try:
        options = TrialOptions(
            texts=texts,
            dram_sizes=tuple(map(parse_quantity, dram_sizes)),
            ssd_bytes_s=float(parse_quantity(ssd_speed)),
            **numbers,
        )
        rows = run(_validate(url, model, node, options, output, as_json=as_json))
    except (*MISTAKES, ValueError) as error:
        raise UserError(str(error)) from None
    agrees = within(rows)
    if not as_json:
        click.echo(_summary(rows, agrees))
    if not all(agrees):
        raise SystemExit(1)


async def _validate(
    url: str, model: str | None, node: str, options: "TrialOptions", output: Path | None, *, as_json: bool
) -> "list[Row]":
    from dataclasses import asdict

    import msgspec

    from kvtide_cachenode.contract.client import NodeClient
    from kvtide_operator.cli.engine.calibrate import facts_of, profile_file, text_of
    from kvtide_operator.cli.engine.progress import Bar
    from kvtide_operator.probe.calibration import calibrate
    from kvtide_operator.probe.engine import Engine
    from kvtide_operator.probe.rig import Rig
    from kvtide_operator.probe.trial import prepare
    from kvtide_operator.simulate.engine.fit import fit_steps

    rows: list[Row] = []
    async with await Engine.open(url, model) as engine, NodeClient(node) as client:
        rig = Rig(engine, client)
        with Bar() as bar:
            found = await calibrate(
                engine,
                seconds=options.calibration_s,
                chunk_tokens=options.chunk_tokens,
                seed=options.seed + 1,
                progress=bar.show,
            )
        fit = fit_steps(found.samples)
        file = await profile_file(engine, fit, "measured", 1)
        click.echo(text_of(facts_of(found, fit)), err=True)
        trial = await prepare(rig, options, file, found.overhead_s)
        click.echo(trial.text, err=True)
        if not as_json:
            click.echo(HEADER)
        lines = b""
        async for row in trial.rows():
            rows.append(row)
            line = msgspec.json.encode(asdict(row))
            click.echo(line if as_json else _line(row))
            lines += line + b"\n"
            try:
                if output is not None:
                    write_file("-o", output, lines)
            except WorkError as error:
                click.echo(f"{error}; the rows stand here", err=True)
                output = None
    return rows


def _line(row: "Row") -> str:
    return (
        f"{row.name:26} {row.run:3} {row.requests:9} {row.seconds:5.0f} {row.load:5.2f}"
        f" {row.ttft_mean_s:8.3f} {row.simulated_ttft_mean_s:7.3f} {row.ttft_error:+7.1%}"
        f" {row.throughput_tok_s:8.2f} {row.simulated_throughput_tok_s:7.2f} {row.throughput_error:+6.1%}"
        f" {row.hit_ratio:6.4f} {row.simulated_hit_ratio:7.4f} {row.hit_ratio_error:+7.4f}"
    )


def _summary(rows: "list[Row]", agrees: list[bool]) -> str:
    worst = (
        f"largest errors: mean TTFT {max(abs(row.ttft_error) for row in rows):.1%}, throughput"
        f" {max(abs(row.throughput_error) for row in rows):.1%}, hit ratio"
        f" {max(abs(row.hit_ratio_error) for row in rows):.4f}"
    )
    off = [f"{row.name}, run {row.run}" for row, agree in zip(rows, agrees, strict=True) if not agree]
    return f"{worst}; " + (f"off: {'; '.join(off)}" if off else f"all {len(rows)} rows agree")
