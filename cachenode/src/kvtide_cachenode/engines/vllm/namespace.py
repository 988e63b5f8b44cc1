"""From vLLM's configuration: what keeps blocks apart that must not be exchanged, and what is refused."""

import logging
import os
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

from kvtide_cachenode.engines.block_keys import MODEL_DIGITS
from kvtide_cachenode.engines.block_layout import LayerShape
from kvtide_cachenode.engines.model_digest import digest
from kvtide_cachenode.engines.namespace import Namespace, model_digest

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("vllm.kvtide")


class UnsupportedError(ValueError):
    """vLLM is configured in a way this connector must not run with; the sentence says what to change."""


def check(config: "VllmConfig", caches: "KVCacheConfig") -> FullAttentionSpec:
    """The one kind of KV cache that all layers have.

    Raises:
        UnsupportedError: the failure policy is not recompute, or there are several kinds.
    """
    policy = config.kv_transfer_config.kv_load_failure_policy
    if policy != "recompute":
        raise UnsupportedError(
            f'kv_load_failure_policy is "{policy}", with which a lost cache node would fail requests;'
            ' set "kv_load_failure_policy": "recompute" in --kv-transfer-config'
        )
    if len(caches.kv_cache_groups) != 1:
        raise UnsupportedError(
            f"this model has {len(caches.kv_cache_groups)} KV cache groups, and a block of one of them says"
            " nothing about the others; kvtide serves models with one group, so start without it"
        )
    spec = caches.kv_cache_groups[0].kv_cache_spec
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise UnsupportedError("context parallelism spreads a block over workers; start without it or kvtide")
    if type(spec) not in (FullAttentionSpec, MLAAttentionSpec):
        raise UnsupportedError(
            f"the KV cache is a {type(spec).__name__}, which is not a whole prefix in blocks of one size;"
            " kvtide serves full attention and MLA, so start without it"
        )
    return spec


def layer_shape(config: "VllmConfig", spec: FullAttentionSpec) -> LayerShape:
    """What one layer's cache looks like on every worker."""
    packing = ""
    if current_platform.is_cpu():
        packing = _get_attn_isa(
            config.model_config.dtype, spec.block_size, spec.head_size, config.cache_config.cache_dtype
        )
    is_mla = isinstance(spec, MLAAttentionSpec)
    return LayerShape(
        spec.block_size, spec.num_kv_heads, spec.head_size, spec.dtype, packing, has_values=not is_mla
    )


def namespace(config: "VllmConfig", shape: LayerShape, layers: int, model_id: str | None) -> Namespace:
    """The beginnings of this engine's keys."""
    cache, model = config.cache_config, config.model_config
    algorithm = cache.prefix_caching_hash_algo
    seed = os.getenv("PYTHONHASHSEED")
    facts: dict[str, object] = {"hash": algorithm, "seed": seed, "cache_dtype": cache.cache_dtype}
    if not algorithm.endswith("cbor"):
        # These hash pickles, which differ between versions of Python.
        facts["python"] = list(sys.version_info[:2])
    if algorithm.startswith("xxhash") and seed is None:
        logger.warning(
            "kvtide: --prefix-caching-hash-algo %s without PYTHONHASHSEED gives every process other"
            " block hashes: nothing is shared with other engines or after a restart; use sha256_cbor",
            algorithm,
        )
        facts["process"] = uuid4().hex
    draft = config.speculative_config
    if draft is not None:
        # Its layers lie in the same blocks. Wrong ones cost speed and no token: the model itself decides.
        facts["draft"] = [draft.method, draft.model, draft.revision]
    if model_id is not None:
        name = digest(facts | {"model_id": model_id}, None, MODEL_DIGITS)
    else:
        configuration = model.hf_config.to_dict()
        facts |= {
            "configuration": configuration,
            "dtype": str(model.dtype),
            "quantization": model.quantization,
            # "dummy" computes with other weights than those on disk, and some formats with rounded ones.
            "load_format": str(config.load_config.load_format),
        }
        if "longrope" in str(configuration):
            # vLLM chooses between long and short factors by this.
            facts["max_model_len"] = model.max_model_len
        name = model_digest(model.model, model.revision, facts, uuid4().hex)
    return Namespace(name, shape.tag(layers))
