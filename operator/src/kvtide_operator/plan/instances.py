"""How many engines: the cost of a million output tokens within the constraints, as advice."""

from collections.abc import Callable
from dataclasses import dataclass

from kvtide_operator.plan.outcome import Candidate

Plan = Callable[[int], tuple[Candidate, bool]]
"""The cheapest point with a number of engines, and whether it keeps the constraints."""


@dataclass(frozen=True, slots=True)
class InstanceCost:
    """The cheapest point with a number of engines.

    Attributes:
        instances: engines.
        chosen: the point.
        feasible: whether it keeps the constraints.
        cost_per_million_tokens: of output, GPUs and storage; infinite where nothing is served.
    """

    instances: int
    chosen: Candidate
    feasible: bool
    cost_per_million_tokens: float


def instance_costs(cheapest: Plan, least: int, most: int) -> tuple[InstanceCost, ...]:
    """One entry for each number of engines from ``least`` to ``most``.

    That is where a cache saves GPU-hours: with enough hits fewer engines keep the same SLO.
    """
    assert 1 <= least <= most
    costs = []
    for instances in range(least, most + 1):
        chosen, feasible = cheapest(instances)
        tokens_per_hour = chosen.outcome.throughput_tok_s * 3600
        per_million = (
            chosen.outcome.cost_per_hour / tokens_per_hour * 1e6 if tokens_per_hour else float("inf")
        )
        costs.append(InstanceCost(instances, chosen, feasible, per_million))
    return tuple(costs)


def advised(costs: tuple[InstanceCost, ...]) -> InstanceCost | None:
    """The cheapest number of engines that keeps the constraints; None where none does."""
    feasible = [cost for cost in costs if cost.feasible]
    return min(feasible, key=lambda cost: (cost.cost_per_million_tokens, cost.instances), default=None)
