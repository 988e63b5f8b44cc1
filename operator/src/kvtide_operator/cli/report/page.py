"""The HTML report of a run: one file, no script, nothing loaded from elsewhere."""

from html import escape
from string import Template

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.cli.report.plots import capacity_plot, cost_plot, curve_plot, hit_ratio_plot
from kvtide_operator.cli.report.story import Story

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 60rem; margin: 2rem auto;
 padding: 0 1rem; }
 h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
 .figures { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1rem 0; }
 .figures div { font-size: .85rem; color: #6b7280; }
 .figures b { display: block; font-size: 1.6rem; color: #111827; }
 svg { max-width: 100%; height: auto; }
 table { border-collapse: collapse; font-size: .9rem; }
 td, th { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
 border-bottom: 1px solid #e5e7eb; } td.number { white-space: nowrap; }
</style></head><body>
<h1>$title</h1><p>$summary</p>
<div class="figures">$figures</div>
$plots
<h2>What the loop did</h2>
<table><tr><th>minute</th><th>step</th><th>why</th></tr>$moves</table>
</body></html>
""")


def render(story: Story, *, title: str, summary: str, figures: dict[str, str]) -> str:
    """The page of one run.

    Args:
        figures: the numbers at the top, by what they mean.
    """
    plots = [
        ("Capacity", capacity_plot(story)),
        ("Hit ratio", hit_ratio_plot(story)),
        ("Cost of the tier", cost_plot(story)),
        ("Hit ratio against capacity at the end", curve_plot(story)),
    ]
    return _PAGE.substitute(
        title=escape(title),
        summary=escape(summary),
        figures="".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for k, v in figures.items()),
        plots="".join(f"<h2>{escape(name)}</h2>{svg}" for name, svg in plots if svg),
        moves="".join(_move(at_s, done.decision.before.dram, done.decision.after.dram, done.decision.reason)
                      for at_s, done in story.moves),
    )  # fmt: skip


def _move(at_s: float, from_bytes: int, to_bytes: int, reason: str) -> str:
    step = f"{format_quantity(from_bytes)} → {format_quantity(to_bytes)}"
    return (
        f'<tr><td class="number">{at_s / 60:.1f}</td><td class="number">{step}</td>'
        f"<td>{escape(reason)}</td></tr>"
    )
