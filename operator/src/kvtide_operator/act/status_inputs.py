"""Everything that the status of a TieredCache is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kvtide_operator.api.status import DecisionStatus, PredictionError
from kvtide_operator.api.tierclass import Medium, Volume
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import Pass
from kvtide_operator.decide.target import Target
from kvtide_operator.plan.proposal import Plan
from kvtide_operator.world.cluster import CacheWorld
from kvtide_operator.world.metrics import EngineMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    """What a status is made from.

    Attributes:
        cache: with the status it had.
        world: its objects and nodes.
        target: what it shall hold.
        ssd_class: of its SSD; None without one.
        volume: the sizes in which that is sold.
        done: the pass over the world; None where nothing could be done.
        problem: why nothing could be done: a class that is not there, a spec that cannot be planned.
        blocked: a sentence on each thing that the pass could not do; refused steps are in ``done``.
        prices: what a number of bytes that is paid for costs an hour, by medium.
        has_one_currency: whether the costs of tiers can be added.
        hit_ratios: blocks hit in a tier / blocks requested, by medium; without what is not known.
        prefix_hit_ratio: blocks hit in any tier / blocks requested, from traces; metrics go before it.
        metrics: of the engines; None where the spec names no source.
        plan: the newest plan; None keeps what was said of the last.
        plan_name: of its CachePlan, where one was written.
        approved: whether someone approved the plan.
        notes: what the newest round could not read or believe.
        no_plan: why there is no plan for the present workload; None where there is one.
        prediction_error: measured less simulated, of the point in effect.
        decisions: those since the last status, oldest first.
    """

    cache: TieredCache
    world: CacheWorld
    target: Target
    done: Pass | None
    ssd_class: str | None = None
    volume: Volume | None = None
    problem: str | None = None
    blocked: Sequence[str] = ()
    prices: Mapping[Medium, Callable[[int], float]] = field(default_factory=dict)
    has_one_currency: bool = True
    hit_ratios: Mapping[Medium, float] = field(default_factory=dict)
    prefix_hit_ratio: float | None = None
    metrics: EngineMetrics | None = None
    plan: Plan | None = None
    plan_name: str | None = None
    approved: bool = False
    notes: tuple[str, ...] = ()
    no_plan: str | None = None
    prediction_error: PredictionError | None = None
    decisions: Sequence[DecisionStatus] = ()
