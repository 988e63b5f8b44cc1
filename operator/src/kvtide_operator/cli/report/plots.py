"""Plots as SVG text, drawn without a display."""

from collections.abc import Sequence
from io import StringIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvtide_operator.cli.report.story import Story

GIB = 1 << 30
BLUE, ORANGE, GREEN, GREY = "#2563eb", "#ea580c", "#059669", "#9ca3af"


def capacity_plot(story: Story) -> str:
    """Capacity, what is used of it, and the fixed size it is compared with, over time."""
    figure, axes = _axes("minutes", "GiB")
    minutes = _minutes(story)
    axes.step(minutes, _gib(story, "capacity_bytes"), where="post", color=BLUE, label="capacity")
    axes.fill_between(minutes, _gib(story, "used_bytes"), color=BLUE, alpha=0.15, label="used")
    axes.plot(minutes, _gib(story, "resident_bytes"), color=GREEN, linewidth=1, label="resident memory")
    axes.axhline(story.fixed_bytes / GIB, color=GREY, linestyle="--", label="fixed size")
    return _svg(figure, axes)


def hit_ratio_plot(story: Story) -> str:
    """The hit ratio engines saw, and what the curve says of the capacity at that moment."""
    figure, axes = _axes("minutes", "prefix hit ratio")
    seen = [(s.at_s / 60, s.seen_hit_ratio) for s in story.samples if s.seen_hit_ratio is not None]
    planned = [(s.at_s / 60, s.planned_hit_ratio) for s in story.samples if s.planned_hit_ratio is not None]
    axes.plot(*_columns(seen), color=BLUE, label="seen by engines")
    axes.plot(*_columns(planned), color=ORANGE, linewidth=1, label="by the curve, over the window")
    axes.set_ylim(0, 1)
    return _svg(figure, axes)


def cost_plot(story: Story) -> str:
    """Storage cost an hour against the fixed size's."""
    figure, axes = _axes("minutes", "cost per hour")
    axes.step(
        _minutes(story), [s.cost_per_hour for s in story.samples], where="post", color=BLUE, label="kvtide"
    )
    axes.axhline(story.fixed_cost_per_hour, color=GREY, linestyle="--", label="fixed size")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def curve_plot(story: Story) -> str | None:
    """The last hit-ratio curve, with the capacity of that moment on it; None before there is one."""
    if story.curve is None:
        return None
    figure, axes = _axes("capacity, GiB", "prefix hit ratio")
    top = max(story.fixed_bytes, max(s.capacity_bytes for s in story.samples))
    sizes = [top * step / 200 for step in range(201)]
    ratios = [story.curve.hit_ratio_at(int(size / story.bytes_per_entry)) for size in sizes]
    axes.plot([size / GIB for size in sizes], ratios, color=BLUE, label="hit ratio")
    last = story.samples[-1].capacity_bytes
    at_last = story.curve.hit_ratio_at(int(last / story.bytes_per_entry))
    axes.plot([last / GIB], [at_last], "o", color=ORANGE, label="present capacity")
    axes.axhline(story.curve.hit_ratio_infinite, color=GREY, linestyle="--", label="infinite cache")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    axes.legend(frameon=False, fontsize=8, loc="best")
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _minutes(story: Story) -> list[float]:
    return [sample.at_s / 60 for sample in story.samples]


def _gib(story: Story, field: str) -> list[float]:
    return [getattr(sample, field) / GIB for sample in story.samples]


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in rows], [y for _, y in rows]
