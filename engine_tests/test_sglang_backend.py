"""The SGLang backend against the abstract class and the factory of the released package, no engine."""

import sys
import sysconfig
import types

import pytest
import torch

PAGE_TOKENS, HEADS, CHANNELS, LAYERS = 64, 2, 64, 4


@pytest.fixture(scope="module")
def sglang():
    """The storage package alone: importing all of SGLang needs a GPU's libraries."""
    names = ["sglang", "sglang.srt", "sglang.srt.mem_cache"]
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [f"{sysconfig.get_path('purelib')}/{name.replace('.', '/')}"]
        sys.modules[name] = module
    # SGLang brings its ranks together before it makes the backend.
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    from sglang.srt.mem_cache import hicache_storage
    from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

    yield hicache_storage, StorageBackendFactory
    torch.distributed.destroy_process_group()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        del sys.modules[name]


class Pool:
    """What HiCache's host pools tell a backend."""

    dtype = torch.bfloat16
    layout = "page_first"
    page_size = PAGE_TOKENS

    def get_dummy_flat_data_page(self):
        return torch.zeros(2 * LAYERS * PAGE_TOKENS * HEADS * CHANNELS, dtype=self.dtype)


@pytest.fixture
def make_backend(sglang, start_node):
    storage, factory = sglang
    node = start_node()
    made = []

    def make(model_id="m", **changes):
        extra = {
            "backend_name": "kvtide",
            "module_path": "kvtide_cachenode.engines.sglang.hicache",
            "class_name": "KvtideHiCache",
            "kvtide": {"nodes": f"127.0.0.1:{node.port}", "lookup_timeout_s": 5.0, "model_id": model_id},
        }
        facts = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1}
        facts |= {"is_mla_model": False, "enable_storage_metrics": False, "is_page_first_layout": True}
        config = storage.HiCacheStorageConfig(
            **(facts | {"model_name": "m", "extra_config": extra} | changes)
        )
        backend = factory.create_backend("dynamic", config, None)
        pool = Pool()
        backend.register_mem_pool_host(pool)
        backend.register_mem_host_pool_v2(pool, storage.PoolName.KV)
        backend.on_host_pools_registered()
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


def stored(backend, keys, pages):
    assert backend.batch_set(keys, pages)
    # A slot is back when its page is stored.
    for _ in range(backend._storer._slots - backend._storer._unmade):
        backend._storer._free.put(backend._storer._free.get(timeout=10))
    while backend.batch_exists(keys) < len(keys):
        pass


def test_pages_come_back_bit_for_bit(make_backend):
    backend = make_backend()
    pages = [torch.randn_like(Pool().get_dummy_flat_data_page()) for _ in range(5)]
    keys = [f"{seed:064x}" for seed in range(5)]
    assert backend.batch_exists(keys) == 0
    stored(backend, keys, pages)
    assert backend.exists(keys[2])
    assert backend.batch_exists([*keys[:3], "never", keys[3]]) == 3
    targets = [Pool().get_dummy_flat_data_page() for _ in range(6)]
    got = backend.batch_get([*keys, "never"], targets)
    assert got[5] is None
    assert all(one is target for one, target in zip(got[:5], targets, strict=False))
    assert all(torch.equal(one, page) for one, page in zip(got[:5], pages, strict=True))
    assert torch.equal(backend.get(keys[1], Pool().get_dummy_flat_data_page()), pages[1])


def test_ranks_and_models_do_not_share_but_mla_ranks_do(make_backend):
    page = torch.ones_like(Pool().get_dummy_flat_data_page())
    # A backend made a second time for a rank has a name of its own: each rank is made once.
    stored(make_backend(tp_size=2), ["k"], [page])
    assert not make_backend(tp_size=2, tp_rank=1).exists("k")
    stored(make_backend(tp_size=2, is_mla_model=True, dp_rank=1), ["mla"], [page])
    assert make_backend(tp_size=2, tp_rank=1, is_mla_model=True, dp_rank=1).exists("mla")
    assert not make_backend("other", tp_size=2, is_mla_model=True, dp_rank=2).exists("mla")


def test_ranks_agree_on_the_name_after_clear(make_backend):
    one = torch.ones_like(Pool().get_dummy_flat_data_page())
    ranks = [make_backend(tp_size=2, tp_rank=rank, is_mla_model=True, dp_rank=3) for rank in range(2)]
    stored(ranks[0], ["k"], [one])
    for rank in ranks:
        rank.clear()
    assert not any(rank.exists("k") for rank in ranks)
    two = 2 * one
    stored(ranks[0], ["k"], [two])
    assert torch.equal(ranks[1].get("k", Pool().get_dummy_flat_data_page()), two)


def test_what_cannot_work_is_refused(make_backend):
    with pytest.raises(ValueError, match="context parallelism"):
        make_backend(attn_cp_size=2)
    with pytest.raises(ValueError, match="a pool 'draft' beside"):
        make_backend().register_mem_host_pool_v2(Pool(), "draft")
    with pytest.raises(ValueError, match=r"extra-config: kvtide: .*missing required field `nodes`"):
        make_backend(
            extra_config={
                "backend_name": "kvtide",
                "module_path": "kvtide_cachenode.engines.sglang.hicache",
                "class_name": "KvtideHiCache",
            }
        )
