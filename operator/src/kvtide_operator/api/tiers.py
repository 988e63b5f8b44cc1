"""The tiers of a cache: their classes, the bounds of their sizes, and what the SSD keeps."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvtide_operator.api.base import Label, Model, ObjectName, rule, rules
from kvtide_operator.api.quantity import (
    DeclaredDuration,
    DeclaredQuantity,
    format_duration,
    format_quantity,
    in_cel,
)


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ValueError(f"classes names {name!r} twice; name each once")
    return names


Classes = Annotated[
    tuple[ObjectName, ...],
    Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}),
    AfterValidator(_each_once),
]
"""The classes the planner may choose from; the first is the start."""


_STEP_SAID = "capacity.step must be at most capacity.max, or there is no size to go to; give for example 1Gi"


class Capacity(Model):
    """The size of a tier over all its nodes.

    Attributes:
        initial: the size until a first plan is applied, and in mode Manual.
        min: the least.
        max: the most.
        step: sizes are multiples of it.
    """

    model_config = rules(
        rule(
            "quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0",
            "capacity.min must be at most capacity.max; swap or widen them",
            values="'capacity.min ' + string(self.min) + ' must be at most capacity.max ' + string(self.max)",
        ),
        rule(
            "quantity(string(self.initial)).compareTo(quantity(string(self.min))) >= 0 && "
            "quantity(string(self.initial)).compareTo(quantity(string(self.max))) <= 0",
            "capacity.initial must lie between capacity.min and capacity.max",
            values="'capacity.initial ' + string(self.initial) + ' must lie between capacity.min ' + "
            "string(self.min) + ' and capacity.max ' + string(self.max)",
        ),
        rule(
            "quantity(string(self.step)).isGreaterThan(quantity('0'))",
            "capacity.step must be above 0; give for example 1Gi",
        ),
        rule(
            "quantity(string(self.max)).compareTo(quantity('1Mi')) < 0 || "
            "quantity(string(self.step)).compareTo(quantity(string(self.max))) <= 0",
            _STEP_SAID,
        ),
    )

    initial: DeclaredQuantity
    min: DeclaredQuantity
    max: DeclaredQuantity
    step: DeclaredQuantity = 1 << 20

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(
                f"capacity.min {format_quantity(self.min)} must be at most "
                f"capacity.max {format_quantity(self.max)}"
            )
        if not self.min <= self.initial <= self.max:
            raise ValueError(
                f"capacity.initial {format_quantity(self.initial)} must lie between capacity.min "
                f"{format_quantity(self.min)} and capacity.max {format_quantity(self.max)}"
            )
        if self.step <= 0:
            raise ValueError("capacity.step must be above 0; give for example 1Gi")
        if 1 << 20 <= self.max < self.step:
            raise ValueError(_STEP_SAID)
        return self


class Ttl(Model):
    """How long the SSD keeps what nobody asks for, and into how many groups that is split.

    Attributes:
        min: the shortest time-out that the planner may choose; 0s keeps nothing.
        max: the longest.
        groups: prefix subtrees with a time-out of their own, at most; 1 for one time-out. They need
            engines with kvtide's connector.
        root_depth: of the block that names a subtree, as the engines' connectors have it.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.min')} <= {in_cel('self.max')}",
            "ttl.min must be at most ttl.max; swap or widen them",
            values="'ttl.min ' + self.min + ' must be at most ttl.max ' + self.max",
        )
    )

    min: DeclaredDuration = 0.0
    max: DeclaredDuration = 3600.0
    groups: int = Field(default=1, ge=1, le=16)
    root_depth: int = Field(default=0, ge=0, le=999_999)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(
                f"ttl.min {format_duration(self.min)} must be at most ttl.max {format_duration(self.max)}"
            )
        return self


class DramTier(Model):
    """DRAM: its price class and the bounds of its size.

    Attributes:
        name: of the tier.
        medium: DRAM or SSD.
        classes: TierClasses of that medium, to choose from; the first is the start.
        capacity: size over all nodes.
    """

    model_config = rules(
        rule(
            "quantity(string(self.capacity.min)).isGreaterThan(quantity('0'))",
            "capacity.min of a DRAM tier must be above 0; give for example 1Gi",
        )
    )

    name: Label
    medium: Literal["DRAM"]
    classes: Classes
    capacity: Capacity

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        if self.capacity.min == 0:
            raise ValueError("capacity.min of a DRAM tier must be above 0; give for example 1Gi")
        return self


class SsdTier(Model):
    """SSD: the classes the planner may choose from, the bounds of its size and of its retention.

    Attributes:
        name: of the tier.
        medium: DRAM or SSD.
        classes: TierClasses of that medium, to choose from; the first is the start.
        capacity: size over all nodes.
        ttl: how long it keeps what nobody asks for.
        admission: which entries that leave DRAM are written.
        reclaim: what becomes of volumes larger than needed: ``Keep`` them, filled less, or ``Replace`` them
            one at a time, which saves what they cost.
    """

    name: Label
    medium: Literal["SSD"]
    classes: Classes
    capacity: Capacity
    ttl: Ttl = Ttl()
    admission: Literal["Always", "SecondTouch", "ReusedOnly"] = "Always"
    reclaim: Literal["Keep", "Replace"] = "Keep"


Tier = Annotated[DramTier | SsdTier, Field(discriminator="medium")]
