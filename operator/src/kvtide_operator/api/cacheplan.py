"""CachePlan: a frontier and the point chosen on it, for people to read and to approve."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Metadata, Model, ObjectName, rule, rules
from kvtide_operator.api.conditions import Condition, Reported
from kvtide_operator.api.moment import Figure, Time
from kvtide_operator.api.point import Point
from kvtide_operator.api.quantity import Duration

MAX_POINTS = 64
Word = Annotated[str, Field(max_length=64)]

Phase = Literal["Proposed", "Approved", "Applying", "Applied", "Superseded", "Expired", "RolledBack"]

_FIELDS = (
    "cacheRef", "validUntil", "workload", "currency", "frontier", "chosen", "baseline", "gain", "why",
)  # fmt: skip


class CacheRef(Model):
    """The TieredCache the plan is for, in the plan's namespace.

    Attributes:
        name: of the cache.
    """

    name: ObjectName


class Workload(Model):
    """What the plan was made for.

    Attributes:
        window: how much of the past was simulated.
        requests: within it.
        blocks: that they asked for.
        hash: of the hit curve; plans of the same hash saw the same workload.
    """

    window: Duration
    requests: int = Field(ge=0)
    blocks: int = Field(ge=0)
    hash: str = Field(max_length=64)


class CachePlanSpec(Model):
    """A plan; nothing of it changes but ``approved``, once, from false to true.

    Attributes:
        valid_until: a plan that is not applied by then expires.
        currency: of all costs.
        frontier: non-dominated points, cheapest first.
        chosen: the chosen one's place in the frontier, from 0.
        baseline: where the cache was.
        gain: by how much the chosen point is better than the baseline in what the objective prefers.
        why: one sentence.
        approved: set it to true to have the plan applied in mode Advise.
    """

    model_config = rules(
        rule(
            " && ".join(f"self.{name} == oldSelf.{name}" for name in _FIELDS),
            "spec of a CachePlan cannot change but for approved; delete it, and the operator makes a new one",
        ),
        rule(
            "!oldSelf.approved || self.approved",
            "approved cannot go back to false; to stop, set spec.scaling.mode of the TieredCache to Manual",
        ),
        rule(
            "self.chosen < self.frontier.size()",
            "chosen must be the place of a point in frontier, from 0",
        ),
    )

    cache_ref: CacheRef
    valid_until: Time
    workload: Workload
    currency: str = Field(pattern=r"^[A-Z]{3}$", max_length=3)
    frontier: tuple[Point, ...] = Field(min_length=1, max_length=MAX_POINTS)
    chosen: int = Field(ge=0, lt=MAX_POINTS)
    baseline: Point
    gain: Figure
    why: str = Field(max_length=1024)
    approved: bool = False

    @model_validator(mode="after")
    def _chosen_exists(self) -> Self:
        if self.chosen >= len(self.frontier):
            raise ValueError("chosen must be the place of a point in frontier, from 0")
        return self

    @property
    def point(self) -> Point:
        """The chosen point."""
        return self.frontier[self.chosen]


class PlanSummary(Reported):
    """The chosen point in the words that ``kubectl get`` shows; sizes are rounded.

    Attributes:
        dram: its DRAM.
        ssd: its SSD; absent without one.
        saves: of what the tiers cost where the cache was; below 0 it costs more.
    """

    dram: Word
    ssd: Word | None = None
    saves: Word


class CachePlanStatus(Reported):
    """How far a plan has come, and why.

    Attributes:
        summary: for people.
    """

    phase: Phase
    summary: PlanSummary | None = None
    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class CachePlan(Model):
    """Namespaced, owned by its TieredCache."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["CachePlan"] = "CachePlan"
    metadata: Metadata
    spec: CachePlanSpec
    status: CachePlanStatus | None = None
