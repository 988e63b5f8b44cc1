"""What the cache is to be good at, and when and how far the loop may move it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import Amount, Model, Ratio, rule, rules
from kvtide_operator.api.quantity import DeclaredDuration, format_duration, in_cel


class Percentiles(Model):
    """Bounds of a latency: of its mean and by percentile, in seconds.

    Attributes:
        mean: at most.
        p50: the median, at most.
        p99: the 99th percentile, at most.
    """

    model_config = rules(
        *(
            rule(
                f"!has(self.{name}) || {in_cel(f'self.{name}')} > duration('0s')",
                f"slo.ttft.{name} must be above 0s; give for example 2s or leave it out",
            )
            for name in ("mean", "p50", "p99")
        ),
        rule(
            f"!has(self.p50) || !has(self.p99) || {in_cel('self.p50')} <= {in_cel('self.p99')}",
            "slo.ttft.p50 must be at most slo.ttft.p99; swap or widen them",
            values="'slo.ttft.p50 ' + self.p50 + ' must be at most slo.ttft.p99 ' + self.p99",
        ),
    )

    mean: DeclaredDuration | None = None
    p50: DeclaredDuration | None = None
    p99: DeclaredDuration | None = None

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        for name in ("mean", "p50", "p99"):
            if getattr(self, name) == 0:
                raise ValueError(f"slo.ttft.{name} must be above 0s; give for example 2s or leave it out")
        if self.p50 is not None and self.p99 is not None and self.p50 > self.p99:
            raise ValueError(
                f"slo.ttft.p50 {format_duration(self.p50)} must be at most slo.ttft.p99 "
                f"{format_duration(self.p99)}"
            )
        return self


class Slo(Model):
    """What the engines must keep.

    Attributes:
        ttft: time to first token.
    """

    ttft: Percentiles = Percentiles()


class Budget(Model):
    """What the tiers may cost an hour, without the GPUs.

    Attributes:
        tiers_per_hour: at most, in the currency of the classes.
    """

    model_config = rules(
        rule(
            "!has(self.tiersPerHour) || double(self.tiersPerHour) > 0.0",
            "budget.tiersPerHour must be above 0; give for example 40.00 or leave it out",
        )
    )

    tiers_per_hour: Amount | None = None

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        if self.tiers_per_hour == 0:
            raise ValueError("budget.tiersPerHour must be above 0; give for example 40.00 or leave it out")
        return self


class ThroughputFloor(Model):
    """Output tokens a second that all engines together must reach.

    Attributes:
        floor: at least.
    """

    floor: int | None = Field(default=None, ge=1, le=10**12)


class Objective(Model):
    """Which point of the frontier to take, among those that keep the constraints.

    Attributes:
        prefer: what to be good at; Balanced takes the frontier's knee.
        slo: latencies to keep.
        throughput: throughput to keep.
        budget: costs to keep.
    """

    prefer: Literal["Cost", "Latency", "Throughput", "Balanced"] = "Cost"
    slo: Slo = Slo()
    throughput: ThroughputFloor = ThroughputFloor()
    budget: Budget = Budget()


class ScaleUp(Model):
    """How long a larger size must have been recommended before it is followed.

    Attributes:
        stabilization: that long.
    """

    stabilization: DeclaredDuration = 0.0


class ScaleDown(Model):
    """How long a smaller size must have been recommended before it is followed.

    Attributes:
        stabilization: that long.
    """

    stabilization: DeclaredDuration = 600.0


_NO_STEP_SAID = "scaling.maxStep must be above 0; give for example 25%, or mode Manual to keep all sizes"


class Scaling(Model):
    """When and how far the loop moves a tier.

    Attributes:
        mode: Manual keeps the initial sizes, Advise writes plans and waits for approval, Auto applies them.
        interval: from round to round.
        window: how much of the past is planned for.
        season: after which the workload repeats, such as a week; needs ``history``.
        max_step: the most that a tier moves at once, as a share of its size.
        up: when to grow.
        down: when to shrink.
        minimum_gain: what a move must gain, as a share of what the objective prefers.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.interval')} >= duration('1s')",
            "scaling.interval must be at least 1s; give for example 1m",
        ),
        rule(
            f"{in_cel('self.window')} >= duration('1s')",
            "scaling.window must be at least 1s; give for example 1h",
        ),
        rule(
            f"{in_cel('self.season')} > duration('0s')",
            "scaling.season must be above 0s; give for example 168h, a week",
        ),
        rule("!self.maxStep.matches('^[0.]+%?$')", _NO_STEP_SAID),
    )

    mode: Literal["Manual", "Advise", "Auto"] = "Auto"
    interval: DeclaredDuration = Field(default=60.0, ge=1)
    window: DeclaredDuration = Field(default=3600.0, ge=1)
    season: DeclaredDuration = Field(default=604800.0, gt=0)
    max_step: Ratio = 0.25
    up: ScaleUp = ScaleUp()
    down: ScaleDown = ScaleDown()
    minimum_gain: Ratio = 0.03

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.max_step == 0:
            raise ValueError(_NO_STEP_SAID)
        return self
