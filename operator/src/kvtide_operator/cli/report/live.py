"""The live view of a run in the terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.cli.report.rounds import round_as_text
from kvtide_operator.cli.report.story import Story
from kvtide_operator.loop import Round

BAR_CELLS = 40
TREND_CELLS = 48
LAST_MOVES = 6
_LEVELS = " ▁▂▃▄▅▆▇█"


class LiveView:
    """Redraws the view in place on a terminal; elsewhere it prints a line a round."""

    def __init__(self, headline: str) -> None:
        self._headline = headline
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._headline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, story: Story, done: Round) -> None:
        """Draw the state after a round."""
        if self._live is not None:
            self._live.update(_view(story, done, self._headline), refresh=True)
        else:
            self._console.print(round_as_text(done), soft_wrap=True, highlight=False, markup=False)


def _view(story: Story, done: Round, headline: str) -> RenderableType:
    """The present state of a run: sizes as bars, ratios as trends, the latest steps with their reasons."""
    sample = story.samples[-1]
    scale = max(story.fixed_bytes, max(s.capacity_bytes for s in story.samples))
    table = Table.grid(padding=(0, 2))
    table.add_row("capacity", _bar(sample.capacity_bytes, scale, "blue"), _mib(sample.capacity_bytes))
    table.add_row("used", _bar(sample.used_bytes, scale, "cyan"), _mib(sample.used_bytes))
    table.add_row("resident", _bar(sample.resident_bytes, scale, "green"), _mib(sample.resident_bytes))
    seen = [s.seen_hit_ratio for s in story.samples if s.seen_hit_ratio is not None]
    table.add_row("hit ratio", _trend(seen), f"{seen[-1]:.1%}" if seen else "no requests yet")
    table.add_row(
        "cost per hour",
        _trend([s.cost_per_hour / story.fixed_cost_per_hour for s in story.samples]),
        f"{sample.cost_per_hour:.2f}, at a fixed {format_quantity(story.fixed_bytes)} "
        f"{story.fixed_cost_per_hour:.2f}",
    )
    saved = f"{story.saved:.0%}" if story.saved is not None else "nothing yet"
    table.add_row("saved so far", "", saved)
    moves = Table.grid(padding=(0, 2))
    for at_s, move in story.moves[-LAST_MOVES:]:
        decision = move.decision
        step = f"{format_quantity(decision.before.dram)} → {format_quantity(decision.after.dram)}"
        moves.add_row(f"{at_s / 60:5.1f} min", step, Text(decision.reason, style="dim"))
    now = Text(f"round {done.number}: {done.decision.action}, {done.decision.reason}", style="italic")
    return Panel(Group(table, Text(), moves, now), title=headline, title_align="left")


def _bar(amount: float, scale: float, style: str) -> Text:
    cells = min(BAR_CELLS, round(BAR_CELLS * amount / scale))
    return Text("█" * cells, style=style) + Text("░" * (BAR_CELLS - cells), style="dim")


def _trend(values: list[float]) -> Text:
    top = len(_LEVELS) - 1
    return Text("".join(_LEVELS[round(top * min(max(v, 0.0), 1.0))] for v in values[-TREND_CELLS:]))


def _mib(amount: int) -> str:
    return f"{amount / (1 << 20):,.0f} MiB"
