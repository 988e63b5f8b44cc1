"""TierClass: what a medium costs and how fast it is."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Amount, Metadata, Model
from kvtide_operator.api.quantity import Duration, Quantity

Medium = Literal["DRAM", "SSD"]


class PriceStep(Model):
    """A rung of the price ladder: the rate of every GiB above the rung before and up to ``up_to``."""

    up_to: Quantity | None = None
    per_gi_b_hour: Amount = Field(alias="perGiBHour")


class ThroughputStep(Model):
    """The rate of every MB/s of a volume above ``above``, up to the next step."""

    above: Quantity
    per_m_bps_hour: Amount = Field(alias="perMBpsHour")


class IopsStep(Model):
    """The rate of every I/O operation a second of a volume above ``above``, up to the next step."""

    above: int = Field(ge=0)
    per_iops_hour: Amount = Field(alias="perIOPSHour")


class Price(Model):
    """A graduated price, charged on what is paid for rather than on what is used (Kareto, eq. 2: φ_k)."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
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
    """Bytes a second of one volume: base + perGiB x its GiB, kept between floor and ceiling."""

    base: Quantity
    per_gi_b: Quantity = Field(default=0, alias="perGiB")
    floor: Quantity = 0
    ceiling: Quantity | None = None


class Speed(Model):
    """How fast a volume is."""

    read: Bandwidth
    write: Bandwidth
    shared_channel: bool = False
    latency: Duration = 0.0


class Volume(Model):
    """The sizes in which the provider sells a volume."""

    min: Quantity = 0
    max: Quantity | None = None
    step: Quantity = 1 << 30
    grow_every: Duration = 0.0


class Endurance(Model):
    """How much a volume may be written."""

    writes_per_day: Quantity = Field(gt=0)


class TierClassSpec(Model):
    """What a medium costs and how fast it is; a medium that is not DRAM must say how fast."""

    medium: Medium
    price: Price
    speed: Speed | None = None
    storage_class_name: str | None = Field(default=None, max_length=253)
    volume: Volume = Volume()
    endurance: Endurance | None = None

    @model_validator(mode="after")
    def _ssd_has_a_speed(self) -> Self:
        if self.medium == "SSD" and self.speed is None:
            raise ValueError("a class of medium SSD needs a speed; give speed.read and speed.write")
        return self


class TierClass(Model):
    """Cluster-scoped, like a StorageClass."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TierClass"] = "TierClass"
    metadata: Metadata
    spec: TierClassSpec
