"""A plan in the terminal: the frontier as a table, the choice and why."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kvtide_operator.cli.report.frontier_rows import rows_of

COLUMNS = ("", "DRAM GiB", "TTL s", "class", "storage", "total/h", "tok/s", "mean s", "P99 s", "hits")


def show(document: dict[str, Any]) -> None:
    """Print the document of `cli.planning.planned` for people."""
    table = Table(*COLUMNS, box=None, padding=(0, 1, 0, 0))
    for labels, point in rows_of(document):
        table.add_row(*_cells(", ".join(labels), point), style="bold" if "chosen" in labels else None)
    Console().print(table)
    click.echo(f"chosen: {document['why']}")
    for note in document["notes"]:
        click.echo(f"note: {note}")
    for row in document.get("instances", ()):
        verdict = (
            "advised" if row["advised"] else "keeps the constraints" if row["feasible"] else "infeasible"
        )
        click.echo(
            f"{row['instances']} engines: {row['cost_per_million_output_tokens']:.2f} {document['currency']} "
            f"a million output tokens, {verdict}"
        )
    click.echo(f"{document['evaluations']} evaluations in {document['wall_s']:.1f} s")


def _cells(label: str, point: dict[str, Any]) -> tuple[str, ...]:
    return (
        label,
        f"{point['dram_gib']:.6g}",
        f"{point['ttl_s']:.0f}" if "ttl_s" in point else f"{len(point['ttl_groups'])} groups",
        point["tier_class"] or "none",
        f"{point['storage_cost_per_hour']:.2f}",
        f"{point['cost_per_hour']:.2f}",
        f"{point['throughput_tok_s']:.0f}",
        *(f"{point[f'ttft_{which}_s']:.2f}" if point["stable"] else "grows" for which in ("mean", "p99")),
        f"{point['prefix_hit_ratio']:.3f}",
    )
