"""The model whose KV is cached, and the engines in front of the cache."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvtide_operator.api.base import Amount, Model, rule, rules
from kvtide_operator.api.quantity import DeclaredQuantity

_GEOMETRY_SAID = (
    "model.layers, model.kvHeads and model.headDim belong together; give all three, or model.kvBytesPerToken"
)


class CacheModel(Model):
    """The model whose KV is cached: how many bytes a block of tokens takes.

    Attributes:
        name: as on Hugging Face; of the models kvtide knows it says the geometry.
        dtype: of the KV cache.
        block_tokens: tokens of a block, the unit in which engines cache.
        layers: that keep KV; for models kvtide does not know, with ``kvHeads`` and ``headDim``.
        kv_heads: heads of keys and values.
        head_dim: values of a head.
        kv_bytes_per_token: of all layers and ranks together; for latent attention and hybrid models.
    """

    model_config = rules(
        rule(
            "has(self.kvBytesPerToken) || (has(self.layers) == has(self.kvHeads) && "
            "has(self.kvHeads) == has(self.headDim))",
            _GEOMETRY_SAID,
        )
    )

    name: str = Field(min_length=1, max_length=253)
    dtype: str = Field(default="bfloat16", max_length=16)
    block_tokens: int = Field(default=512, ge=1, le=65536)
    layers: int | None = Field(default=None, ge=1, le=1024)
    kv_heads: int | None = Field(default=None, ge=1, le=1024)
    head_dim: int | None = Field(default=None, ge=1, le=4096)
    kv_bytes_per_token: int | None = Field(default=None, ge=1, le=1 << 40)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = {each is not None for each in (self.layers, self.kv_heads, self.head_dim)}
        if self.kv_bytes_per_token is None and len(given) > 1:
            raise ValueError(_GEOMETRY_SAID)
        return self


class CatalogueProfile(Model):
    """Step times that ship with kvtide.

    Attributes:
        source: where the step times come from.
        system: the GPU, such as h100_sxm.
        gpus: GPUs of one engine; left out, the one number that ships for the model and system.
    """

    source: Literal["Catalogue"]
    system: str = Field(min_length=1, max_length=63)
    gpus: int | None = Field(default=None, ge=1, le=1024)


class TableProfile(Model):
    """Step times from a file that ``kvtide engine profile`` or ``kvtide engine calibrate`` made.

    Attributes:
        source: where the step times come from.
        file: its path, from the manifest's folder.
    """

    source: Literal["Table"]
    file: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")


BaseProfile = Annotated[CatalogueProfile | TableProfile, Field(discriminator="source")]


class MeasuredProfile(Model):
    """Step times of the engines as their metrics show them: those of a base, scaled.

    Metrics give the mean prefill and the mean decode step, no more; while they do not, the base counts.

    Attributes:
        source: where the step times come from.
        base: step times that are scaled, and that count while too little is measured.
    """

    source: Literal["Measured"]
    base: BaseProfile


EngineProfile = Annotated[CatalogueProfile | TableProfile | MeasuredProfile, Field(discriminator="source")]


class EngineSpec(Model):
    """The engines in front of the cache: what their time costs and how fast they are.

    Attributes:
        kind: vLLM and SGLang differ in what they cache and in when they read from an SSD.
        gpu_hour: price of one GPU for an hour.
        instances: engines; left out, as many as report metrics, or one where none are asked for.
        profile: how long the engine's steps take.
        instances: engines that share the cache.
        gpu_cache: KV room of an engine's GPUs; left out, what the profile says.
        offload: when engines write blocks to the cache: as soon as they are computed, when the GPU evicts
            them, or when they are evicted after a reuse.
        routing: how requests find their engine.
    """

    kind: Literal["VLLM", "SGLANG"] = "VLLM"
    gpu_hour: Amount
    profile: EngineProfile
    instances: int | None = Field(default=None, ge=1, le=1024)
    gpu_cache: DeclaredQuantity | None = None
    offload: Literal["WriteThrough", "OnEvict", "Selective"] = "WriteThrough"
    routing: Literal["RoundRobin", "PrefixAffine"] = "RoundRobin"

    @property
    def count(self) -> int:
        """How many engines to plan for."""
        return self.instances or 1
