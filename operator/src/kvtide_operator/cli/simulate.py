"""`kvtide simulate`: what one configuration of the tiers would give on a trace."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvtide_operator.cli import options
from kvtide_operator.cli.errors import UserError

if TYPE_CHECKING:
    from kvtide_operator.simulate.configuration import Configuration

GIB = 1 << 30


@click.command(context_settings={"show_default": True})
@click.argument("trace", type=click.Path(path_type=Path))
@options.manifest()
@click.option("--dram", metavar="SIZE", help="DRAM of the cache.  [default: the manifest's initial capacity]")
@click.option("--ttl", default="0s", metavar="DURATION", help="How long the SSD keeps what nobody asks for.")
@click.option("--class", "tier_class", metavar="NAME", help="SSD class.  [default: the tier's first]")
@click.option("--instances", type=int, help="Engines that share the cache.  [default: the manifest's]")
@options.seed("arrivals that the trace gives in coarse ticks")
@options.as_json()
def command(
    trace: Path,
    manifest_file: Path,
    dram: str | None,
    ttl: str,
    tier_class: str | None,
    instances: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Simulate hits, latency, throughput and cost of one configuration on TRACE."""
    began_s = time.perf_counter()
    from kvtide_operator.api.manifest import load_manifest
    from kvtide_operator.api.quantity import parse_duration, parse_quantity
    from kvtide_operator.cli.mistakes import MISTAKES
    from kvtide_operator.cli.planning import infinite_note
    from kvtide_operator.planner.scenario import scenario_from
    from kvtide_operator.simulate.configuration import Configuration
    from kvtide_operator.simulate.evaluator import Evaluator
    from kvtide_operator.workload.readers import read_trace

    try:
        manifest = load_manifest(manifest_file)
        spec = manifest.cache.spec
        ttl_s = _parsed("--ttl", parse_duration, ttl)
        if ttl_s and spec.ssd is None:
            raise UserError(
                f"--ttl {ttl}: {manifest_file} has no SSD tier to keep anything; add one, or leave --ttl out"
            )
        configuration = Configuration(
            dram_bytes=spec.dram.capacity.initial
            if dram is None
            else _parsed("--dram", parse_quantity, dram),
            ttl_s=ttl_s,
            tier_class=tier_class or (spec.ssd.classes[0] if spec.ssd else None),
            volumes=spec.nodes.replicas.min,
            instances=spec.engine.count if instances is None else instances,
        )
        evaluator = Evaluator(scenario_from(manifest, read_trace(trace), seed))
        outcome = evaluator.coupled(configuration)
        result, note = asdict(outcome), infinite_note(evaluator.scenario, [outcome])
    except MISTAKES as error:
        raise UserError(str(error)) from None
    notes = [*evaluator.scenario.trace.notes, *filter(None, [note])]
    wall_s = time.perf_counter() - began_s
    if as_json:
        import msgspec

        facts = asdict(configuration) | {"seed": seed} | result | {"notes": notes, "wall_s": wall_s}
        click.echo(msgspec.json.encode(facts))
    else:
        _print(configuration, result, evaluator.scenario.dram_price.currency, wall_s)
        for sentence in notes:
            click.echo(f"note: {sentence}")


def _parsed(option: str, parse: Any, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _print(configuration: "Configuration", result: dict[str, Any], currency: str, wall_s: float) -> None:
    requested = result["blocks_requested"]
    shares = (
        f"{tier} {result[f'{name}_hit_blocks'] / requested if requested else 0:.3f}"
        for tier, name in (("GPU", "device"), ("DRAM", "dram"), ("SSD", "ssd"))
    )
    ttft = (f"{name} {result[f'ttft_{name}_s']:.3f} s" for name in ("mean", "p50", "p99"))
    queue = "stable" if result["stable"] else "UNSTABLE: it grows, so latencies mean nothing"
    gib = {name: f"{size / GIB:,.6g} GiB" for name, size in result.items() if name.endswith("_bytes")}
    cost, storage = result["cost_per_hour"], result["storage_cost_per_hour"]
    click.echo(f"hit ratio   {result['prefix_hit_ratio']:.3f} of {requested:,} blocks ({', '.join(shares)})")
    click.echo(f"queue       {queue}")
    click.echo(f"TTFT        {', '.join(ttft)}")
    click.echo(f"throughput  {result['throughput_tok_s']:,.0f} output tokens/s")
    click.echo(f"DRAM        {configuration.dram_bytes / GIB:,.6g} GiB")
    if configuration.has_ssd:
        where = f"{configuration.tier_class} on {configuration.volumes} volumes"
        written = f"{gib['ssd_written_bytes']} written, {gib['dropped_write_bytes']} dropped"
        click.echo(f"SSD         {gib['ssd_bytes']} of {where}, at most {gib['ssd_peak_bytes']} used")
        click.echo(f"channel     {result['channel_utilisation']:.0%} busy, {written}")
    click.echo(f"cost        {cost:.2f} {currency}/h, of it {storage:.2f} storage")
    if result["refused_requests"]:
        click.echo(f"refused     {result['refused_requests']:,} requests that no engine could hold")
    click.echo(f"simulated in {wall_s:.2f} s")
