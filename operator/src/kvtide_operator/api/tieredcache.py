"""TieredCache: one cache for one model's engines."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import API_VERSION, Amount, Metadata, Model, Ratio
from kvtide_operator.api.quantity import Duration, Quantity, format_quantity


class CacheModel(Model):
    """The model whose KV is cached: how many bytes a block of tokens takes."""

    name: str = Field(max_length=253)
    dtype: str = Field(default="bfloat16", max_length=16)
    block_tokens: int = Field(default=512, ge=1, le=65536)
    layers: int | None = Field(default=None, ge=1, le=1024)
    kv_heads: int | None = Field(default=None, ge=1, le=1024)
    head_dim: int | None = Field(default=None, ge=1, le=4096)
    kv_bytes_per_token: int | None = Field(default=None, ge=1)


class CatalogueProfile(Model):
    """Step times that ship with kvtide."""

    source: Literal["Catalogue"]
    system: str = Field(max_length=63)
    gpus: int | None = Field(default=None, ge=1, le=1024)


class TableProfile(Model):
    """Step times from a file that ``kvtide engine profile`` made."""

    source: Literal["Table"]
    file: str = Field(max_length=4096)


class EngineSpec(Model):
    """The engines in front of the cache: what their time costs and how fast they are."""

    kind: Literal["VLLM", "SGLANG"] = "VLLM"
    gpu_hour: Amount
    profile: CatalogueProfile | TableProfile = Field(discriminator="source")
    instances: int = Field(default=1, ge=1, le=1024)
    gpu_cache: Quantity | None = None


class Capacity(Model):
    """The size of a tier over all its nodes."""

    initial: Quantity
    min: Quantity
    max: Quantity
    step: Quantity = 1 << 20

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
            raise ValueError("capacity.step must be above 0")
        return self


class Ttl(Model):
    """How long the SSD keeps what nobody asks for, and into how many groups that is split."""

    min: Duration = 0.0
    max: Duration = 3600.0
    groups: int = Field(default=1, ge=1, le=17)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"ttl.min {self.min:g} s must be at most ttl.max {self.max:g} s")
        return self


class DramTier(Model):
    """DRAM: its price class and the bounds of its size."""

    name: str = Field(max_length=63)
    medium: Literal["DRAM"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=8)
    capacity: Capacity

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        if self.capacity.min == 0:
            raise ValueError("capacity.min of a DRAM tier must be above 0")
        return self


class SsdTier(Model):
    """SSD: the classes the planner may choose from, the bounds of its size and of its retention."""

    name: str = Field(max_length=63)
    medium: Literal["SSD"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=8)
    capacity: Capacity
    ttl: Ttl = Ttl()


Tier = Annotated[DramTier | SsdTier, Field(discriminator="medium")]


class Replicas(Model):
    """How many nodes."""

    min: int = Field(ge=1, le=64)


class Nodes(Model):
    """The cache nodes."""

    replicas: Replicas


class Stabilization(Model):
    """How long a recommendation must hold before it is followed."""

    stabilization: Duration = 0.0


class Percentiles(Model):
    """Bounds of a latency by percentile, in seconds."""

    p50: Duration | None = None
    p99: Duration | None = None


class Slo(Model):
    """What the engines must keep."""

    ttft: Percentiles = Percentiles()


class Budget(Model):
    """What the tiers may cost an hour, without the GPUs."""

    tiers_per_hour: Amount | None = None


class Objective(Model):
    """Which point of the frontier to take, among those that keep the constraints."""

    prefer: Literal["Cost", "Latency", "Throughput", "Balanced"] = "Cost"
    slo: Slo = Slo()
    budget: Budget = Budget()


class Scaling(Model):
    """When and how far the loop moves a tier."""

    mode: Literal["Manual", "Advise", "Auto"] = "Auto"
    interval: Duration = Field(default=60.0, gt=0)
    window: Duration = Field(default=3600.0, ge=1)
    season: Duration = Field(default=604800.0, gt=0)
    max_step: Ratio = 0.25
    up: Stabilization = Stabilization(stabilization=0.0)
    down: Stabilization = Stabilization(stabilization=600.0)
    minimum_gain: Ratio = 0.03


class History(Model):
    """Where past windows are kept; with them, the loop plans on the same slot of the season before."""

    url: str = Field(max_length=2048)
    keep: Duration = Field(default=1209600.0, gt=0)


class TieredCacheSpec(Model):
    """What the user wants."""

    model: CacheModel
    engine: EngineSpec
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=2)
    nodes: Nodes
    objective: Objective = Objective()
    scaling: Scaling = Scaling()
    history: History | None = None

    @model_validator(mode="after")
    def _one_dram_and_perhaps_ssd(self) -> Self:
        media = [tier.medium for tier in self.tiers]
        if media not in (["DRAM"], ["DRAM", "SSD"]):
            raise ValueError(
                f"tiers are {', '.join(media)}; give one DRAM tier and after it at most one SSD tier"
            )
        return self

    @property
    def dram(self) -> DramTier:
        """The DRAM tier."""
        tier = self.tiers[0]
        assert isinstance(tier, DramTier)
        return tier

    @property
    def ssd(self) -> SsdTier | None:
        """The SSD tier, where there is one."""
        tier = self.tiers[-1]
        return tier if isinstance(tier, SsdTier) else None


class TieredCache(Model):
    """Namespaced: one cache for one model's engines."""

    api_version: Literal["kvtide.dev/v1alpha1"] = API_VERSION
    kind: Literal["TieredCache"] = "TieredCache"
    metadata: Metadata
    spec: TieredCacheSpec
