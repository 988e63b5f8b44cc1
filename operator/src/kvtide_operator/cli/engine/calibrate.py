"""`kvtide engine calibrate`: two minutes of measured requests to an engine, written as a profile."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError
from kvtide_operator.cli.output import check_writable, write_file

if TYPE_CHECKING:
    from kvtide_operator.probe.calibration import Calibration
    from kvtide_operator.probe.engine import Engine
    from kvtide_operator.simulate.engine.fit import StepFit
    from kvtide_operator.simulate.engine.profile import ProfileFile

LEAST_S, MOST_S = 5.0, 3600.0


@click.command("calibrate", context_settings={"show_default": True})
@click.argument("url")
@click.option("--model", metavar="NAME", help="As the engine calls it.  [default: the only one it serves]")
@options.output("Where to write the profile.")
@click.option("--seconds", default=120.0, type=click.FloatRange(LEAST_S, MOST_S), help="How long to measure.")
@click.option(
    "--chunk-tokens", default=2048, type=click.IntRange(1), help="The engine's --max-num-batched-tokens."
)
@click.option("--system", default="measured", help="What the profile calls the hardware.")
@click.option("--gpus", default=1, type=click.IntRange(1), help="GPUs of the engine.")
@options.seed("the prompts")
@options.as_json()
def calibrate(
    url: str,
    model: str | None,
    output: Path | None,
    seconds: float,
    chunk_tokens: int,
    system: str,
    gpus: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure how long the steps of the vLLM at URL take, and write a profile for `source: Table`.

    The engine must serve nobody else meanwhile. Measured are prompts of many lengths, also with a cached
    beginning, and answers in growing batches. At the end it says by how much the fitted times differ from
    the measured ones.
    """
    import msgspec

    from kvtide_operator.cli.signals import run
    from kvtide_operator.probe.engine import EngineError
    from kvtide_operator.simulate.engine.fit import FitError
    from kvtide_operator.simulate.engine.tabulate import to_json

    check_writable("-o", output)
    try:
        found, fit, file = run(_calibrate(url, model, seconds, chunk_tokens, seed, system, gpus))
    except (EngineError, FitError) as error:
        raise UserError(str(error)) from None
    facts = facts_of(found, fit)
    if as_json:
        click.echo(msgspec.json.encode(facts | {"profile": msgspec.to_builtins(file)}))
    else:
        click.echo(text_of(facts))
    if output is not None:
        write_file("-o", output, to_json(file))
    if as_json:
        return
    click.echo(
        f"profile      {output}: use it with profile: {{source: Table, file: {output.name}}}"
        if output
        else "profile      not written; name a file with --output"
    )


async def _calibrate(
    url: str, model: str | None, seconds: float, chunk_tokens: int, seed: int, system: str, gpus: int
) -> "tuple[Calibration, StepFit, ProfileFile]":
    from kvtide_operator.cli.engine.progress import Bar
    from kvtide_operator.probe.calibration import calibrate as measure
    from kvtide_operator.probe.engine import Engine
    from kvtide_operator.simulate.engine.fit import fit_steps

    async with await Engine.open(url, model) as engine:
        with Bar() as bar:
            found = await measure(
                engine, seconds=seconds, chunk_tokens=chunk_tokens, seed=seed, progress=bar.show
            )
        fit = fit_steps(found.samples)
        return found, fit, await profile_file(engine, fit, system, gpus)


async def profile_file(engine: "Engine", fit: "StepFit", system: str, gpus: int) -> "ProfileFile":
    """The profile of a calibrated engine.

    Raises:
        EngineError: it does not say how much KV it has room for.
    """
    from datetime import UTC, datetime

    from kvtide_operator.simulate.engine.fit import tables_of
    from kvtide_operator.simulate.engine.model import GeometryError, geometry
    from kvtide_operator.simulate.engine.profile import FORMAT, ProfileFile

    linear, prefill, decode = tables_of(fit)
    try:
        layers = geometry(engine.model.root).layers
    except GeometryError:
        layers = 1  # nothing of a load is overlapped
    return ProfileFile(
        format=FORMAT,
        model=engine.model.root,
        system=system,
        engine="vllm",
        engine_version=await engine.version(),
        gpus=gpus,
        parallelism={},
        layers=layers,
        kv_capacity_tokens=(await engine.kv_room()).tokens,
        source="kvtide engine calibrate",
        date=datetime.now(tz=UTC).date().isoformat(),
        largest_correction=0.0,
        linear=linear,
        prefill_attention=prefill,
        decode_attention=decode,
    )


def facts_of(found: "Calibration", fit: "StepFit") -> dict[str, Any]:
    """What a calibration found, for people and programs."""
    from kvtide_operator.simulate.engine.fit import Step

    return {
        "samples": len(found.samples),
        "mean_error": fit.mean_error,
        "worst_error": fit.worst_error,
        "overhead_s": found.overhead_s,
        "decode_step_s": fit.seconds([Step(batch=1, context=256)]),
        "prefill_256_s": fit.seconds([Step(new=256)]),
        "largest_step_tokens": int(fit.tokens[-1]),
    }


def text_of(facts: dict[str, Any]) -> str:
    """The facts in lines."""
    return (
        f"measured     {facts['samples']} requests and batches, steps of up to"
        f" {facts['largest_step_tokens']:,} tokens\n"
        f"decode step  {facts['decode_step_s'] * 1e3:.4g} ms for one sequence of 256 tokens\n"
        f"prefill      {facts['prefill_256_s'] * 1e3:.4g} ms for 256 tokens\n"
        f"overhead     {facts['overhead_s'] * 1e3:.3g} ms of a request outside the engine's steps\n"
        f"fit error    {facts['mean_error']:.1%} on average, {facts['worst_error']:.1%} at worst"
    )
