"""TierClass: what a medium costs and how fast it is."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Amount, Metadata, Model, ObjectName, rule, rules
from kvtide_operator.api.quantity import DeclaredDuration, DeclaredQuantity, format_quantity, in_cel

Medium = Literal["DRAM", "SSD"]


def _about(quantity: str) -> str:
    # CEL sorts numbers, but not quantities.
    return f"quantity(string({quantity})).asApproximateFloat()"


def _rising(numbers: str) -> str:
    # A list of one list gives it a name: what is computed for each of its elements is computed once.
    return f"[{numbers}].all(it, it.isSorted() && it.all(each, it.indexOf(each) == it.lastIndexOf(each)))"


class PriceStep(Model):
    """A rung of the price ladder: the rate of every GiB above the rung before and up to ``upTo``.

    Attributes:
        up_to: where the rung ends; the last one has no end.
        per_gi_b_hour: price of a GiB for an hour.
    """

    up_to: DeclaredQuantity | None = None
    per_gi_b_hour: Amount = Field(alias="perGiBHour")


class ThroughputStep(Model):
    """The rate of every MB/s of a volume above ``above``, up to the next step.

    Attributes:
        above: bytes a second where the step begins.
        per_m_bps_hour: price of a MB/s for an hour.
    """

    above: DeclaredQuantity
    per_m_bps_hour: Amount = Field(alias="perMBpsHour")


class IopsStep(Model):
    """The rate of every I/O operation a second of a volume above ``above``, up to the next step.

    Attributes:
        above: operations a second where the step begins.
        per_iops_hour: price of one a second for an hour.
    """

    above: int = Field(ge=0, le=10**9)
    per_iops_hour: Amount = Field(alias="perIOPSHour")


class Price(Model):
    """A graduated price, charged on what is paid for rather than on what is used (Kareto, eq. 2: φ_k).

    Attributes:
        currency: of all amounts, by ISO 4217.
        capacity: a ladder of amounts; what lies on a rung costs its rate.
        throughput: what bytes a second cost on top; left out, nothing.
        iops: what operations a second cost on top; left out, nothing.
    """

    model_config = rules(
        rule(
            "!has(self.capacity[self.capacity.size() - 1].upTo)",
            "the last rung of price.capacity must have no upTo, so that every size has a price",
        ),
        rule(
            _rising(f"self.capacity.map(rung, has(rung.upTo) ? {_about('rung.upTo')} : 1e300)"),
            "every rung of price.capacity but the last needs an upTo above the one before it",
        ),
        rule(
            "!has(self.throughput) || " + _rising(f"self.throughput.map(step, {_about('step.above')})"),
            "the steps of price.throughput must have rising values of above",
        ),
        rule(
            "!has(self.iops) || " + _rising("self.iops.map(step, step.above)"),
            "the steps of price.iops must have rising values of above",
        ),
    )

    currency: str = Field(default="USD", max_length=3, pattern=r"^[A-Z]{3}$")
    capacity: tuple[PriceStep, ...] = Field(min_length=1, max_length=16)
    throughput: tuple[ThroughputStep, ...] = Field(default=(), max_length=16)
    iops: tuple[IopsStep, ...] = Field(default=(), max_length=16)

    @model_validator(mode="after")
    def _rungs_ascend(self) -> Self:
        bounds = [step.up_to for step in self.capacity[:-1]]
        if None in bounds or bounds != sorted({b for b in bounds if b is not None}):
            raise ValueError(
                "every rung of price.capacity but the last needs an upTo above the one before it"
            )
        if self.capacity[-1].up_to is not None:
            raise ValueError(
                "the last rung of price.capacity must have no upTo, so that every size has a price"
            )
        for name, steps in (("throughput", self.throughput), ("iops", self.iops)):
            above = [step.above for step in steps]
            if above != sorted(set(above)):
                raise ValueError(f"the steps of price.{name} must have rising values of above")
        return self


class Bandwidth(Model):
    """Bytes a second of one volume: base + perGiB x its GiB, kept between floor and ceiling.

    Attributes:
        base: of a volume of no size.
        per_gi_b: more for every GiB.
        floor: the least.
        ceiling: the most; left out, there is none.
    """

    model_config = rules(
        rule(
            f"{_about('self.base')} + {_about('self.perGiB')} + {_about('self.floor')} > 0.0",
            "a speed must be above 0; give base, perGiB or floor, for example base: 120M",
        ),
        rule(
            "!has(self.ceiling) || quantity(string(self.ceiling)).isGreaterThan(quantity('0'))",
            "ceiling must be above 0; give for example 350M or leave it out",
        ),
        rule(
            "!has(self.ceiling) || "
            "quantity(string(self.floor)).compareTo(quantity(string(self.ceiling))) <= 0",
            "floor must be at most ceiling; swap or widen them",
            values="'floor ' + string(self.floor) + ' must be at most ceiling ' + string(self.ceiling)",
        ),
    )

    base: DeclaredQuantity
    per_gi_b: DeclaredQuantity = Field(default=0, alias="perGiB")
    floor: DeclaredQuantity = 0
    ceiling: DeclaredQuantity | None = None

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.base + self.per_gi_b + self.floor == 0:
            raise ValueError("a speed must be above 0; give base, perGiB or floor, for example base: 120M")
        if self.ceiling == 0:
            raise ValueError("ceiling must be above 0; give for example 350M or leave it out")
        if self.ceiling is not None and self.floor > self.ceiling:
            raise ValueError(
                f"floor {format_quantity(self.floor)} must be at most ceiling {format_quantity(self.ceiling)}"
            )
        return self


class Speed(Model):
    """How fast a volume is.

    Attributes:
        read: bytes a second read.
        write: bytes a second written.
        shared_channel: reads and writes take from one another.
        latency: of an operation.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.latency')} <= duration('10s')",
            "speed.latency must be at most 10s; give for example 200us",
        )
    )

    read: Bandwidth
    write: Bandwidth
    shared_channel: bool = False
    latency: DeclaredDuration = Field(default=0.0, le=10)


class Volume(Model):
    """The sizes in which the provider sells a volume, and how often one may grow.

    Attributes:
        min: the least.
        max: the most; left out, there is none.
        step: sizes are multiples of it.
        grow_every: the least time between two growths of one volume.
    """

    model_config = rules(
        rule(
            "!has(self.max) || quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0",
            "volume.min must be at most volume.max; swap or widen them",
        ),
        rule(
            "quantity(string(self.step)).isGreaterThan(quantity('0'))",
            "volume.step must be above 0; give for example 1Gi",
        ),
        rule(
            "!has(self.max) || quantity(string(self.max)).isGreaterThan(quantity('0'))",
            "volume.max must be above 0; give for example 32Ti or leave it out",
        ),
        rule(
            "!has(self.max) || quantity(string(self.step)).compareTo(quantity(string(self.max))) <= 0",
            "volume.step must be at most volume.max, or no volume is sold; give for example 1Gi",
        ),
    )

    min: DeclaredQuantity = 0
    max: DeclaredQuantity | None = None
    step: DeclaredQuantity = 1 << 30
    grow_every: DeclaredDuration = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError("volume.min must be at most volume.max; swap or widen them")
        if self.step <= 0:
            raise ValueError("volume.step must be above 0; give for example 1Gi")
        if self.max == 0:
            raise ValueError("volume.max must be above 0; give for example 32Ti or leave it out")
        if self.max is not None and self.step > self.max:
            raise ValueError(
                "volume.step must be at most volume.max, or no volume is sold; give for example 1Gi"
            )
        return self


class Endurance(Model):
    """How much a volume may be written.

    Attributes:
        writes_per_day: bytes.
    """

    model_config = rules(
        rule(
            "quantity(string(self.writesPerDay)).isGreaterThan(quantity('0'))",
            "endurance.writesPerDay must be above 0; leave endurance out where there is no limit",
        )
    )

    writes_per_day: DeclaredQuantity = Field(gt=0)


def _only_ssd(name: str) -> str:
    return f"{name} is only for medium SSD; remove it or change medium"


class TierClassSpec(Model):
    """What a medium costs and how fast it is; a medium that is not DRAM must say how fast.

    Attributes:
        medium: DRAM or SSD.
        price: what it costs.
        speed: how fast one volume is.
        storage_class_name: of the volumes; left out, the cluster's default class.
        volume: the sizes it is sold in.
        endurance: how much may be written; left out, there is no limit.
    """

    model_config = rules(
        rule(
            "self.medium != 'SSD' || has(self.speed)",
            "a class of medium SSD needs a speed; give speed.read and speed.write",
        ),
        *(
            rule(f"self.medium == 'SSD' || !has(self.{name})", _only_ssd(name))
            for name in ("storageClassName", "endurance")
        ),
    )

    medium: Medium
    price: Price
    speed: Speed | None = None
    storage_class_name: ObjectName | None = None
    volume: Volume = Volume()
    endurance: Endurance | None = None

    @model_validator(mode="after")
    def _ssd_has_a_speed(self) -> Self:
        if self.medium == "SSD" and self.speed is None:
            raise ValueError("a class of medium SSD needs a speed; give speed.read and speed.write")
        if self.medium != "SSD" and self.storage_class_name is not None:
            raise ValueError(_only_ssd("storageClassName"))
        if self.medium != "SSD" and self.endurance is not None:
            raise ValueError(_only_ssd("endurance"))
        return self


class TierClass(Model):
    """Cluster-scoped, like a StorageClass."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TierClass"] = "TierClass"
    metadata: Metadata
    spec: TierClassSpec
