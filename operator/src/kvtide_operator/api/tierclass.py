"""TierClass: what a medium costs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Amount, Metadata, Model
from kvtide_operator.api.quantity import Quantity

Medium = Literal["DRAM"]


class PriceStep(Model):
    """A rung of the price ladder: the rate of every GiB above the rung before and up to ``up_to``."""

    up_to: Quantity | None = None
    per_gi_b_hour: Amount = Field(alias="perGiBHour")


class Price(Model):
    """A graduated price, charged on what is paid for rather than on what is used (Kareto, eq. 2: φ_k)."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    capacity: tuple[PriceStep, ...] = Field(min_length=1, max_length=16)

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
        return self


class TierClassSpec(Model):
    """What a medium costs."""

    medium: Medium
    price: Price


class TierClass(Model):
    """Cluster-scoped, like a StorageClass."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TierClass"] = "TierClass"
    metadata: Metadata
    spec: TierClassSpec
