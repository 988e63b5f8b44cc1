"""Model geometry: how many bytes of KV cache a token, and a block of tokens, take."""

import re
from dataclasses import dataclass

_VALUE_BYTES = {
    "float32": 4, "bfloat16": 2, "float16": 2,
    "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "int8": 1,
}  # fmt: skip


class GeometryError(ValueError):
    """A model whose geometry cannot be worked out; the message says which fields to give."""


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """What the simulator needs to know of a model's KV cache.

    Attributes:
        name: as the user wrote it.
        layers: transformer layers that keep KV, loaded one after the other.
        kv_bytes_per_token: bytes of all layers and all tensor-parallel ranks together.
    """

    name: str
    layers: int
    kv_bytes_per_token: int

    def block_bytes(self, tokens: int) -> int:
        """Bytes of a block of ``tokens`` tokens, uncompressed."""
        return self.kv_bytes_per_token * tokens


def grouped_query(kv_heads: int, head_dim: int) -> int:
    """Values that a token keeps in a layer: a key and a value for every KV head."""
    return 2 * kv_heads * head_dim


def latent(lora_rank: int, rope_dim: int) -> int:
    """Values that a token keeps in a layer of multi-head latent attention (DeepSeek-V2, section 2.1)."""
    return lora_rank + rope_dim


# (layers, values per token and layer), from the `config.json` of each model as published by its maker:
# num_hidden_layers, num_key_value_heads and head_dim (hidden_size / num_attention_heads where absent),
# or kv_lora_rank and qk_rope_head_dim. Checked 2026-11-21.
_KNOWN = {
    "DeepSeek-R1": (61, latent(512, 64)),
    "DeepSeek-V3": (61, latent(512, 64)),
    "DeepSeek-V3.1": (61, latent(512, 64)),
    "Kimi-K2": (61, latent(512, 64)),
    "Llama-3.1-8B": (32, grouped_query(8, 128)),
    "Llama-3.1-70B": (80, grouped_query(8, 128)),
    "Llama-3.1-405B": (126, grouped_query(8, 128)),
    "Mistral-7B": (32, grouped_query(8, 128)),
    "Mixtral-8x7B": (32, grouped_query(8, 128)),
    "Mixtral-8x22B": (56, grouped_query(8, 128)),
    "Qwen2.5-7B": (28, grouped_query(4, 128)),
    "Qwen2.5-72B": (80, grouped_query(8, 128)),
    "Qwen3-0.6B": (28, grouped_query(8, 128)),
    "Qwen3-1.7B": (28, grouped_query(8, 128)),
    "Qwen3-8B": (36, grouped_query(8, 128)),
    "Qwen3-32B": (64, grouped_query(8, 128)),
    "Qwen3-30B-A3B": (48, grouped_query(4, 128)),
    "Qwen3-235B-A22B": (94, grouped_query(4, 128)),
    "Qwen3-Coder-480B-A35B": (62, grouped_query(8, 128)),
    "SmolLM2-135M": (30, grouped_query(3, 64)),
}

# Only endings that leave the attention layers as they are: a distilled model keeps its teacher's name
# but not its geometry.
_SAME_GEOMETRY = re.compile(r"(-(instruct|base|chat|thinking|hf|fp8|awq|bf16|v0\.\d|\d{4}))+$")


def canonical_name(name: str) -> str:
    """The name without organisation, ``Meta-`` prefix and endings such as ``-Instruct``, in lower case."""
    return _SAME_GEOMETRY.sub("", name.rsplit("/", 1)[-1].lower().removeprefix("meta-"))


_BY_CANONICAL_NAME = {canonical_name(name): values for name, values in _KNOWN.items()}


def geometry(
    name: str,
    dtype: str = "bfloat16",
    *,
    layers: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    kv_bytes_per_token: int | None = None,
) -> ModelGeometry:
    """The geometry of a model, from what the user gave first and from the known models second.

    ``kv_bytes_per_token`` overrides everything else, for models with latent or hybrid attention. A model
    of which only that is known counts as one layer: the simulator then overlaps nothing of a load.

    Raises:
        GeometryError: unknown model, unknown dtype, or a number that is not positive.
    """
    given = {
        "layers": layers,
        "kvHeads": kv_heads,
        "headDim": head_dim,
        "kvBytesPerToken": kv_bytes_per_token,
    }
    for field, value in given.items():
        if value is not None and value <= 0:
            raise GeometryError(f"model {name!r}: {field} is {value}; it must be a positive number")
    known = _BY_CANONICAL_NAME.get(canonical_name(name))
    if kv_bytes_per_token is not None:
        return ModelGeometry(name, layers or (known[0] if known else 1), kv_bytes_per_token)
    if layers is not None and kv_heads is not None and head_dim is not None:
        known = (layers, grouped_query(kv_heads, head_dim))
    elif any(value is not None for value in given.values()):
        missing = ", ".join(field for field in ("layers", "kvHeads", "headDim") if given[field] is None)
        raise GeometryError(f"model {name!r}: {missing} missing; give layers, kvHeads and headDim together")
    if known is None:
        raise GeometryError(
            f"model {name!r} is not known; give layers, kvHeads and headDim, or kvBytesPerToken"
            f" (known: {', '.join(_KNOWN)})"
        )
    if dtype not in _VALUE_BYTES:
        raise GeometryError(
            f"model {name!r}: dtype {dtype!r} is not known; use one of {', '.join(_VALUE_BYTES)}"
        )
    return ModelGeometry(name, known[0], known[0] * known[1] * _VALUE_BYTES[dtype])
