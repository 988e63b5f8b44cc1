"""The parts that know vLLM, without a running engine: where vLLM puts keys and values, what is refused."""

from time import monotonic

import pytest
import torch
from vllm import _custom_ops as ops
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)

from kvtide_cachenode.engines.adapter_files import AdapterFiles
from kvtide_cachenode.engines.block_keys import BlockName
from kvtide_cachenode.engines.block_layout import BlockLayout, LayerShape
from kvtide_cachenode.engines.container import HEADER_BYTES, Qualities, header, read
from kvtide_cachenode.engines.namespace import AdapterVersion
from kvtide_cachenode.engines.node_connection import Credentials
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.options import read_options
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.vllm.connector import KvtideConnector
from kvtide_cachenode.engines.vllm.metadata import Load, StepMetadata, Store
from kvtide_cachenode.engines.vllm.namespace import UnsupportedError, namespace
from kvtide_cachenode.engines.vllm.worker import WorkerSide
from kvtide_cachenode.wire.resp_client import encode

BLOCKS, HEADS, LAYERS = 4, 3, 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "channels"), [(128, 64), (32, 128), (16, 64), (64, 80)])
def test_what_vllm_writes_is_read_as_keys_and_values(dtype, tokens, channels):
    packing = _get_attn_isa(dtype, tokens, channels, "auto")
    shape = LayerShape(tokens, HEADS, channels, dtype, packing)
    caches = {
        str(layer): torch.zeros(BLOCKS, HEADS, tokens, 2 * channels, dtype=dtype) for layer in range(LAYERS)
    }
    written = []
    for cache in caches.values():
        keys, values = (torch.randn(tokens, HEADS, channels).to(dtype) for _ in range(2))
        key_cache, value_cache = cache.view(BLOCKS, HEADS, 2 * tokens, channels).chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            keys, values, key_cache, value_cache, torch.arange(tokens) + 2 * tokens, packing
        )
        written.append((keys.transpose(0, 1), values.transpose(0, 1)))
    layout = BlockLayout(shape, caches)
    slot = layout.make_slot()
    layout.gather(2, slot)
    if shape.is_canonical:
        expected = [keys for keys, _ in written] + [values for _, values in written]
        payload = torch.frombuffer(slot.memory, dtype=dtype, offset=HEADER_BYTES)
        assert torch.equal(payload.view(2 * LAYERS, HEADS, tokens, channels), torch.stack(expected))
    # Back into another block, and bit for bit the same cache.
    layout.scatter(slot, 3)
    for cache in caches.values():
        assert torch.equal(cache[3].view(torch.uint8), cache[2].view(torch.uint8))
        assert not cache[:2].any()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3)])
def test_the_order_in_memory_does_not_matter(order):
    """A view with any strides, as other attention backends have, gives the same canonical block."""
    logical = torch.randn(BLOCKS, HEADS, 16, 2 * 32)
    back = [order.index(axis) for axis in range(4)]
    strided = logical.permute(order).contiguous().permute(back)
    assert torch.equal(strided, logical)
    layout = BlockLayout(LayerShape(16, HEADS, 32, torch.float32), {"0": strided})
    slot = layout.make_slot()
    layout.gather(1, slot)
    payload = torch.frombuffer(slot.memory, dtype=torch.float32, offset=HEADER_BYTES)
    keys, values = logical[1].split(32, dim=-1)
    assert torch.equal(payload.view(2, HEADS, 16, 32), torch.stack([keys, values]))
    layout.scatter(slot, 0)
    assert torch.equal(strided[0], strided[1])


def test_latent_attention_has_one_part_and_unknown_packing_is_bytes():
    latent = torch.randn(BLOCKS, 1, 16, 576)
    shape = LayerShape(16, 1, 576, torch.float32, has_values=False)
    layout = BlockLayout(shape, {"0": latent})
    assert layout.block_bytes == 16 * 576 * 4
    assert shape.tag(1) == "c1-mla-f32-1x1x16x576"
    unknown = LayerShape(32, HEADS, 64, torch.bfloat16, "amx")
    assert unknown.tag(5) == "n1-amx-kv-bf16-5x3x32x64"
    cache = torch.randn(BLOCKS, HEADS, 32, 128).bfloat16()
    layout = BlockLayout(unknown, {"0": cache})
    slot = layout.make_slot()
    layout.gather(0, slot)
    layout.scatter(slot, 1)
    assert torch.equal(cache[0], cache[1])


def test_a_cache_of_another_form_is_refused():
    with pytest.raises(
        ValueError, match=r"is torch\.float32 \[4, 16, 3, 64\], not torch\.float32 \[blocks, 3, 16, 64\]"
    ):
        BlockLayout(LayerShape(16, HEADS, 32, torch.float32), {"0": torch.zeros(4, 16, HEADS, 64)})


@pytest.fixture(scope="module")
def make_config(model):
    def make(policy="recompute", **options):
        transfer = KVTransferConfig(
            kv_connector="KvtideConnector",
            kv_connector_module_path="kvtide_cachenode.engines.vllm.connector",
            kv_role="kv_both",
            kv_load_failure_policy=policy,
            kv_connector_extra_config={"nodes": "127.0.0.1:1"},
        )
        return EngineArgs(model=str(model), kv_transfer_config=transfer, **options).create_engine_config()

    return make


FULL = FullAttentionSpec(block_size=128, num_kv_heads=3, head_size=64, dtype=torch.bfloat16)
WINDOW = SlidingWindowSpec(
    block_size=128, num_kv_heads=3, head_size=64, dtype=torch.bfloat16, sliding_window=128
)


def caches_of(*specs):
    groups = [KVCacheGroupSpec([f"layer.{at}"], spec) for at, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=4, kv_cache_tensors=[], kv_cache_groups=groups)


@pytest.mark.parametrize(
    ("policy", "specs", "sentence"),
    [
        ("fail", [FULL], '"kv_load_failure_policy": "recompute"'),
        ("recompute", [FULL, WINDOW], "2 KV cache groups"),
        ("recompute", [WINDOW], "SlidingWindowSpec"),
    ],
)
def test_what_would_be_unsafe_is_refused_in_one_sentence(make_config, policy, specs, sentence):
    with pytest.raises(UnsupportedError, match=sentence) as raised:
        KvtideConnector(make_config(policy), KVConnectorRole.SCHEDULER, caches_of(*specs))
    assert "\n" not in str(raised.value)


def head(config, dtype=torch.bfloat16):
    named = namespace(config, LayerShape(128, 3, 64, dtype, "vec"), 30, None).head(None).result()
    assert named is not None, "these are shared"
    return named.name


def test_what_must_not_be_exchanged_has_other_keys(make_config, monkeypatch):
    base = head(make_config())
    assert head(make_config()) == base
    assert head(make_config(), torch.float32) != base
    cbor = head(make_config(prefix_caching_hash_algo="sha256_cbor"))
    assert cbor != base
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert head(make_config()) != base


def test_random_block_hashes_are_not_shared(make_config, monkeypatch, caplog):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    config = make_config(prefix_caching_hash_algo="xxhash_cbor")
    assert head(config) != head(config)
    assert "use sha256_cbor" in caplog.text
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    config = make_config(prefix_caching_hash_algo="xxhash_cbor")
    assert head(config) == head(config)


def test_quality_is_inherited_by_what_is_computed_on_it(start_node):
    """Block 0 is loaded with lineage 0.5, block 1 is computed on it, block 2 on nothing."""
    shape = LayerShape(16, HEADS, 32, torch.float32)
    caches = {"0": torch.randn(BLOCKS, HEADS, 16, 64)}
    nodes = NodeSet([("127.0.0.1", start_node().port)], Credentials())
    worker = WorkerSide(shape, caches, b"0-1x1", nodes, read_options({"nodes": "a:1"}, "extra"), Tally())
    names = [BlockName(b"kvt:m:l", b"r:%d:h" % depth) for depth in range(3)]
    key = names[0].key(b"0-1x1")
    payload = torch.randn(2 * HEADS * 16 * 32).numpy().tobytes()
    write(nodes, key, header(key, memoryview(payload), Qualities(0.9, 0.5)) + payload)
    worker.start_loads(StepMetadata(loads=[Load("request", names[:1], [3], None)]))
    while not worker.ended_loads(is_idle=True):
        pass
    assert not worker.take_failed_ids()
    worker.store(StepMetadata(stores=[Store(names[1], 1, 3), Store(names[2], 2, None)]))
    worker.close()
    lineages = []
    for name in names[1:]:
        key = name.key(b"0-1x1")
        value = memoryview(bytearray(HEADER_BYTES + len(payload)))
        with nodes.connection(nodes.owner(key), monotonic() + 5) as connection:
            connection.send([encode(b"GET", key)], monotonic() + 5)
            assert connection.read_value(value, monotonic() + 5) == len(value)
        lineages.append(read(key, value, len(payload)))
    nodes.close()
    assert lineages == [Qualities(1.0, 0.5), Qualities(1.0, 1.0)]


def test_a_block_of_an_adapter_that_was_replaced_meanwhile_is_not_stored(start_node, tmp_path):
    """The request was named before, its block computed after vLLM may have read the new files."""
    shape = LayerShape(16, HEADS, 32, torch.float32)
    nodes = NodeSet([("127.0.0.1", start_node().port)], Credentials())
    tally = Tally()
    caches = {"0": torch.randn(BLOCKS, HEADS, 16, 64)}
    worker = WorkerSide(shape, caches, b"0-1x1", nodes, read_options({"nodes": "a:1"}, "extra"), tally)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"old")
    old = AdapterVersion(str(tmp_path), AdapterFiles().digest(str(tmp_path)))
    counted: dict[str, float] = {}

    def store(depth):
        name = BlockName(b"kvt:m:l", b"r:%d:h" % depth)
        worker.store(StepMetadata(stores=[Store(name, depth, None, old)]))
        deadline_s = monotonic() + 20
        while sum(counted.values()) <= depth:
            assert monotonic() < deadline_s
            for counter, amount in tally.take().items():
                if counter in ("store_blocks", "store_dropped_adapter_changed"):
                    counted[counter] = counted.get(counter, 0) + amount

    store(0)
    (tmp_path / "adapter_model.bin").write_bytes(b"new")
    store(1)
    (tmp_path / "adapter_model.bin").unlink()
    store(2)
    worker.close()
    nodes.close()
    assert counted == {"store_blocks": 1, "store_dropped_adapter_changed": 2}


def write(nodes, key, value):
    with nodes.connection(nodes.owner(key), monotonic() + 5) as connection:
        assert connection.ask(encode(b"SET", key, value), monotonic() + 5) == b"OK"
