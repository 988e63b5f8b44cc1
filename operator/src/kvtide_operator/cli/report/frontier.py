"""The HTML page of a plan: the frontier as a plot and a table; one file, no script, nothing loaded."""

from html import escape
from io import StringIO
from string import Template
from typing import Any

from matplotlib.figure import Figure

from kvtide_operator.cli.report.frontier_rows import rows_of

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 60rem; margin: 2rem auto;
 padding: 0 1rem; }
 svg { max-width: 100%; height: auto; } table { border-collapse: collapse; font-size: .9rem; }
 td, th { padding: .25rem 1rem .25rem 0; text-align: right; border-bottom: 1px solid #e5e7eb; }
 tr.chosen { background: #dbeafe; font-weight: 600; } tr.baseline { color: #6b7280; }
</style></head><body>
<h1>$title</h1><p>$why</p>$notes
$plot
<table><tr>$header</tr>$rows</table>
</body></html>
""")

_COLUMNS = {
    "dram_gib": "DRAM GiB",
    "ttl": "TTL s",
    "tier_class": "class",
    "storage_cost_per_hour": "storage / h",
    "cost_per_hour": "total / h",
    "throughput_tok_s": "tokens / s",
    "ttft_mean_s": "mean TTFT s",
    "ttft_p50_s": "P50 s",
    "ttft_p99_s": "P99 s",
    "prefix_hit_ratio": "hit ratio",
}


def render(document: dict[str, Any], title: str) -> str:
    """The page of a plan, from its JSON document."""
    return _PAGE.substitute(
        title=escape(title),
        why=escape(document["why"]),
        notes="".join(f"<p>{escape(note)}</p>" for note in document["notes"]),
        plot=_plot(document),
        header="".join(f"<th>{name}</th>" for name in _COLUMNS.values()),
        rows="".join(_row(labels, point) for labels, point in rows_of(document)),
    )


def _row(labels: list[str], point: dict[str, Any]) -> str:
    ttl = point["ttl_s"] if "ttl_s" in point else ", ".join(f"{t:.0f}" for t in point["ttl_groups"])
    cells = [{**point, "ttl": ttl}[key] for key in _COLUMNS]
    shown = [f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell or "none")) for cell in cells]
    return f'<tr class="{" ".join(labels)}">' + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>"


def _plot(document: dict[str, Any]) -> str:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    frontier = document["frontier"]
    series: tuple[tuple[list[dict[str, Any]], str, dict[str, Any]], ...] = (
        (frontier, "frontier", {"marker": "o", "color": "#2563eb", "markersize": 4}),
        ([document["chosen"]], "chosen", {"marker": "*", "color": "#ea580c", "markersize": 14}),
        ([document["baseline"]], "baseline", {"marker": "s", "color": "#9ca3af", "markersize": 8}),
    )
    for points, label, style in series:
        shown = [point for point in points if point["stable"]]
        axes.plot(
            [point["cost_per_hour"] for point in shown],
            [point["ttft_mean_s"] for point in shown],
            linestyle="-" if label == "frontier" else "",
            label=label,
            **style,
        )
    axes.set_xlabel("cost an hour, GPUs included")
    axes.set_ylabel("mean TTFT in seconds")
    axes.legend(frameon=False)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]
