"""TieredCache: one cache for one model's engines."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Amount, Metadata, Model, Ratio
from kvtide_operator.api.quantity import Duration, Quantity, format_quantity


class CacheModel(Model):
    """The model whose KV is cached: how many bytes a block of tokens takes."""

    name: str = Field(max_length=253)
    block_tokens: int = Field(default=512, ge=1, le=65536)
    kv_bytes_per_token: int | None = Field(default=None, ge=1)


class CatalogueProfile(Model):
    """Step times that ship with kvtide."""

    source: Literal["Catalogue"]
    system: str = Field(max_length=63)


class EngineSpec(Model):
    """The engines in front of the cache: what their time costs and how fast they are."""

    kind: Literal["VLLM", "SGLANG"] = "VLLM"
    gpu_hour: Amount
    profile: CatalogueProfile


class Capacity(Model):
    """The size of a tier over all its nodes."""

    initial: Quantity
    min: Quantity
    max: Quantity
    step: Quantity = 1 << 20

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.min <= self.max:
            raise ValueError(
                f"capacity.min {format_quantity(self.min)} must be above 0 and at most "
                f"capacity.max {format_quantity(self.max)}"
            )
        if not self.min <= self.initial <= self.max:
            raise ValueError(
                f"capacity.initial {format_quantity(self.initial)} must lie between capacity.min "
                f"{format_quantity(self.min)} and capacity.max {format_quantity(self.max)}"
            )
        if self.step <= 0:
            raise ValueError("capacity.step must be above 0")
        return self


class Tier(Model):
    """A tier: a medium, its price class and the bounds of its size."""

    name: str = Field(max_length=63)
    medium: Literal["DRAM"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=8)
    capacity: Capacity


class Replicas(Model):
    """How many nodes."""

    min: int = Field(ge=1, le=64)


class Nodes(Model):
    """The cache nodes."""

    replicas: Replicas


class Stabilization(Model):
    """How long a recommendation must hold before it is followed."""

    stabilization: Duration = 0.0


class Scaling(Model):
    """When and how far the loop moves a tier."""

    mode: Literal["Manual", "Advise", "Auto"] = "Auto"
    interval: Duration = Field(default=60.0, gt=0)
    window: Duration = Field(default=3600.0, gt=0)
    max_step: Ratio = 0.25
    up: Stabilization = Stabilization(stabilization=0.0)
    down: Stabilization = Stabilization(stabilization=600.0)
    minimum_gain: Ratio = 0.03


class TieredCacheSpec(Model):
    """What the user wants."""

    model: CacheModel
    engine: EngineSpec
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=1)
    nodes: Nodes
    scaling: Scaling = Scaling()


class TieredCache(Model):
    """Namespaced: one cache for one model's engines."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TieredCache"] = "TieredCache"
    metadata: Metadata
    spec: TieredCacheSpec
