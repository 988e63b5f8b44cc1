"""What the cache is to be good at, and when and how far the loop may move it."""

from typing import Literal

from pydantic import Field

from kvtide_operator.api.base import Amount, Model, Ratio, rule, rules
from kvtide_operator.api.quantity import Duration


class Percentiles(Model):
    """Bounds of a latency: of its mean and by percentile, in seconds.

    Attributes:
        mean: at most.
        p50: the median, at most.
        p99: the 99th percentile, at most.
    """

    mean: Duration | None = None
    p50: Duration | None = None
    p99: Duration | None = None


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

    tiers_per_hour: Amount | None = None


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

    stabilization: Duration = 0.0


class ScaleDown(Model):
    """How long a smaller size must have been recommended before it is followed.

    Attributes:
        stabilization: that long.
    """

    stabilization: Duration = 600.0


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
            "duration(self.interval) > duration('0s')",
            "scaling.interval must be above 0s; give for example 1m",
        ),
        rule(
            "duration(self.window) >= duration('1s')",
            "scaling.window must be at least 1s; give for example 1h",
        ),
        rule(
            "duration(self.season) > duration('0s')",
            "scaling.season must be above 0s; give for example 168h, a week",
        ),
    )

    mode: Literal["Manual", "Advise", "Auto"] = "Auto"
    interval: Duration = Field(default=60.0, gt=0)
    window: Duration = Field(default=3600.0, ge=1)
    season: Duration = Field(default=604800.0, gt=0)
    max_step: Ratio = 0.25
    up: ScaleUp = ScaleUp()
    down: ScaleDown = ScaleDown()
    minimum_gain: Ratio = 0.03
