"""Which past to plan on, and what planning on it cost (Kareto, section 4.1: weekly periodicity)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvtide_operator.plan.outcome import Candidate, Outcome
from kvtide_operator.plan.selector import Constraints, Prefer, select
from kvtide_operator.plan.workers import Evaluate
from kvtide_operator.workload.trace import Trace

WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of history.

    Attributes:
        start_s: its first second, on the history's clock.
        end_s: the second after its last.
        seasonal: whether it is the same slot of an earlier season; otherwise it trails the present.
    """

    start_s: float
    end_s: float
    seasonal: bool


def planning_window(
    history_start_s: float, now_s: float, period_s: float, season_s: float | None = WEEK_S
) -> Window:
    """The history to plan the period ``now_s`` to ``now_s + period_s`` on.

    The same slot one season ago where history reaches back to its start, otherwise the ``period_s`` before
    now, or as much of it as there is. ``season_s`` None always takes the latter.
    """
    assert period_s > 0
    if season_s is not None and period_s <= season_s and history_start_s <= now_s - season_s:
        return Window(now_s - season_s, now_s - season_s + period_s, True)
    return Window(max(now_s - period_s, min(history_start_s, now_s)), now_s, False)


def requests_in(trace: Trace, start_s: float, end_s: float) -> Trace:
    """The requests that arrive from ``start_s`` until before ``end_s``, as a trace of its own."""
    first, last = np.searchsorted(trace.arrival_s, [start_s, end_s])
    return trace.between(int(first), int(last))


@dataclass(frozen=True, slots=True)
class Regret:
    """What a point chosen on one period costs on the next, beside the point one would choose in hindsight.

    Attributes:
        chosen: the planned configuration as the next period treats it.
        optimum: what the same search and objective choose on the next period itself.
        storage_cost_per_hour: chosen less optimum; below 0 where the plan was too lean, see ``ttft_mean_s``.
        cost_per_hour: the same with GPUs.
        ttft_mean_s: chosen less optimum; meaningless where either is unstable.
        throughput_tok_s: optimum less chosen.
        broken: the constraints that the chosen point breaks on the next period.
    """

    chosen: Candidate
    optimum: Candidate
    storage_cost_per_hour: float
    cost_per_hour: float
    ttft_mean_s: float
    throughput_tok_s: float
    broken: tuple[str, ...]


def regret(
    planned: Candidate,
    evaluate_next: Evaluate,
    search_next: Callable[[], tuple[Candidate, ...]],
    constraints: Constraints,
    prefer: Prefer,
) -> Regret:
    """Evaluate what was planned on the following period, beside that period's own optimum.

    Args:
        planned: chosen on an earlier period.
        evaluate_next: simulates the following period.
        search_next: everything that a search finds on the following period.
        constraints: those the plan was made under.
        prefer: the objective it was made for.
    """
    outcome = evaluate_next(planned.configuration)
    chosen = Candidate(planned.configuration, outcome)
    # The planned point is known in hindsight as well, so that the optimum is never the worse of the two.
    optimum = select((*search_next(), chosen), constraints, prefer).chosen
    best: Outcome = optimum.outcome
    excluded = select((chosen,), constraints, prefer).excluded
    return Regret(
        chosen=chosen,
        optimum=optimum,
        storage_cost_per_hour=outcome.storage_cost_per_hour - best.storage_cost_per_hour,
        cost_per_hour=outcome.cost_per_hour - best.cost_per_hour,
        ttft_mean_s=outcome.ttft_mean_s - best.ttft_mean_s,
        throughput_tok_s=best.throughput_tok_s - outcome.throughput_tok_s,
        broken=tuple(name for name, count in excluded.items() if count),
    )
