"""SGLang's backend with its ranks in one process: names after `clear`, what is refused, and no slot lost.

SGLang and torch are as little of them as the backend touches; `engine_tests` has it with the real ones.
"""

import importlib
import json
import sys
import time
import types
import urllib.request
from dataclasses import dataclass

import numpy as np
import pytest

PAGE_BYTES = 4096


class Tensor(np.ndarray):
    """Of numpy, with torch's names."""

    def contiguous(self):
        return self

    def view(self, kind):
        return self if kind == -1 else np.ndarray.view(self, kind)

    def numpy(self):
        return np.ndarray.view(self, np.ndarray)


def page(byte, size=PAGE_BYTES):
    return np.full(size, byte, np.uint8).view(Tensor)


class Store:
    """What torch.distributed keeps for all ranks of an engine."""

    def __init__(self):
        self.kept = {}

    def compare_set(self, key, expected, desired):
        assert not expected
        return self.kept.setdefault(key, desired.encode())

    def add(self, key, amount):
        self.kept[key] = self.kept.get(key, 0) + amount
        return self.kept[key]


@dataclass
class Config:
    """SGLang's `HiCacheStorageConfig`."""

    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    dp_rank: int = 0
    attn_cp_size: int = 1
    dcp_size: int = 1
    is_mla_model: bool = False
    model_name: str = "served"
    extra_config: dict | None = None


class Pool:
    dtype = "torch.uint8"
    layout = "page_first"
    page_size = 64
    storage_format_tag = None

    def get_dummy_flat_data_page(self):
        return page(0)


class World:
    """Engines' processes: `store` is that of the engine whose ranks are made now."""

    def __init__(self, module, node, on_end):
        self.module, self.node, self.on_end = module, node, on_end
        self.address = node.address
        self.store = Store()
        self.arguments = None

    def server_arguments(self):
        if self.arguments is None:
            raise ValueError("Global server args is not set yet!")
        return self.arguments

    def rank(self, model_id="model", pool=None, extra=None, **changes):
        options = {"nodes": "{}:{}".format(*self.address), "lookup_timeout_s": 10.0, "load_timeout_s": 10.0}
        options |= {} if model_id is None else {"model_id": model_id}
        config = Config(extra_config={"kvtide": options} | (extra or {}), **changes)
        backend = self.module.KvtideHiCache(config, {})
        self.on_end.callback(backend.close)
        backend.register_mem_pool_host(Pool() if pool is None else pool)
        return backend

    def ranks(self, count, **changes):
        return [self.rank(tp_rank=rank, tp_size=count, **changes) for rank in range(count)]


@pytest.fixture
def world(monkeypatch, start_node, stack):
    class HiCacheStorage:
        def register_mem_pool_host(self, mem_pool_host):
            self.mem_pool_host = mem_pool_host

    world = World(None, start_node(), stack)
    modules = {
        "torch": {"Tensor": Tensor, "uint8": np.uint8},
        "torch.distributed": {},
        "torch.distributed.distributed_c10d": {"_get_default_store": lambda: world.store},
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.runtime_context": {"get_server_args": world.server_arguments},
        "sglang.srt.mem_cache": {},
        "sglang.srt.mem_cache.hicache_storage": {"HiCacheStorage": HiCacheStorage},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    ours = [f"kvtide_cachenode.engines.sglang.{name}" for name in ("names", "hicache")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    world.module = importlib.import_module(ours[-1])
    yield world
    for name in ours:
        sys.modules.pop(name, None)


def stored(backend, key, content):
    assert backend.batch_set([key], [content])
    deadline_s = time.monotonic() + 60
    while not backend.exists(key):
        assert time.monotonic() < deadline_s, "it is not stored"


def loaded(backend, key):
    got = backend.batch_get([key], [page(0)])[0]
    return None if got is None else got[0]


@pytest.mark.parametrize("is_mla", [False, True])
def test_after_clear_no_rank_finds_what_was_there_and_all_find_what_comes(world, is_mla):
    ranks = world.ranks(3, is_mla_model=is_mla)
    writers = ranks[:1] if is_mla else ranks  # with MLA SGLang lets one rank store for all
    for writer in writers:
        stored(writer, "k", page(1))
    assert [loaded(rank, "k") for rank in ranks] == [1, 1, 1]
    for rank in ranks:
        rank.clear()
    assert [rank.exists("k") for rank in ranks] == [False] * 3
    assert [loaded(rank, "k") for rank in ranks] == [None] * 3
    for writer in writers:
        stored(writer, "k", page(2))
    assert [loaded(rank, "k") for rank in ranks] == [2, 2, 2]


def test_an_engine_that_clears_leaves_others_alone(world):
    first = world.rank()
    world.store = Store()
    second = world.rank()
    stored(first, "k", page(1))
    assert loaded(second, "k") == 1
    second.clear()
    stored(second, "k", page(2))
    assert (loaded(first, "k"), loaded(second, "k")) == (1, 2)
    # Cleared as often, it has other weights: the engine begins with them, and nobody else.
    first.clear()
    assert not first.exists("k")


def test_a_restarted_engine_has_the_weights_on_its_disk_again(world):
    engine = world.rank()
    stored(engine, "k", page(1))
    engine.clear()
    stored(engine, "k", page(2))
    world.store = Store()
    again = world.rank()
    assert loaded(again, "k") == 1
    again.clear()
    assert not again.exists("k")


def test_storage_attached_anew_does_not_know_what_weights_it_finds(world):
    engine = world.rank()
    stored(engine, "k", page(1))
    engine.close()
    # While it was detached the weights may have been updated.
    assert not world.rank().exists("k")


def test_without_a_new_name_nothing_is_exchanged(world, monkeypatch):
    engine = world.rank()
    stored(engine, "k", page(1))
    monkeypatch.setattr(world.store, "add", None)
    with pytest.raises(TypeError):
        engine.clear()
    assert not engine.exists("k")
    assert loaded(engine, "k") is None
    assert not engine.set("k", page(2))


def test_what_is_loaded_while_the_storage_is_cleared_is_a_miss(world, monkeypatch):
    engine = world.rank()
    stored(engine, "k", page(1))
    wait = engine._loader.wait

    def clear_and_wait(job):
        wait(job)
        engine.clear()

    monkeypatch.setattr(engine._loader, "wait", clear_and_wait)
    assert loaded(engine, "k") is None
    assert engine._targets == {}


@pytest.mark.parametrize("name", ["draft", "mamba", "swa"])
def test_another_pool_is_refused_in_a_sentence(world, name):
    pool = Pool()
    engine = world.rank(pool=pool)
    engine.register_mem_pool_host(pool)
    engine.register_mem_host_pool_v2(pool, "kv")  # SGLang names the pages' own pool, too
    with pytest.raises(ValueError, match=f"a pool '{name}' beside") as raised:
        engine.register_mem_host_pool_v2(Pool(), name)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="start without it or kvtide"):
        engine.register_mem_pool_host(Pool())
    stored(engine, "k", page(1))
    assert loaded(engine, "k") == 1


def test_the_zero_copy_interface_is_refused(world):
    with pytest.raises(ValueError, match="interface_v1"):
        world.rank(extra={"interface_v1": 1})


@pytest.mark.parametrize("size", [PAGE_BYTES // 2, PAGE_BYTES * 2, 0])
def test_a_page_of_another_size_is_refused_and_costs_no_slot(world, size):
    engine = world.rank()
    for _ in range(20):
        with pytest.raises(ValueError, match=f"a page has {size} bytes, and .* have {PAGE_BYTES}"):
            engine.set("k", page(1, size))
        with pytest.raises(ValueError, match=f"a page has {size} bytes"):
            engine.batch_get(["k", "k"], [page(0), page(0, size)])
    assert engine._targets == {}
    stored(engine, "k", page(1))
    storer = engine._storer
    deadline_s = time.monotonic() + 60
    while storer._free.qsize() + storer._unmade != storer._slots:  # a store is told of first
        assert time.monotonic() < deadline_s, "a slot is lost"
    assert loaded(engine, "k") == 1


def test_a_backend_that_was_never_given_its_pool_can_be_closed(world):
    world.module.KvtideHiCache(Config(extra_config={"kvtide": {"nodes": "127.0.0.1:1"}}), {}).close()


def test_a_model_is_what_is_in_its_folder_and_not_what_it_is_served_as(world, tmp_path):
    for name, content in (("one", b"1"), ("same", b"1"), ("two", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pytorch_model.bin").write_bytes(content * 5000)

    def engine(model_path, served, **more):
        world.store = Store()
        world.arguments = types.SimpleNamespace(model_path=model_path, revision=None, **more)
        return world.rank(model_id=None, model_name=served)

    stored(engine(str(tmp_path / "one"), "a"), "k", page(1))
    assert loaded(engine(str(tmp_path / "same"), "b"), "k") == 1
    assert not engine(str(tmp_path / "two"), "a").exists("k")
    assert not engine(str(tmp_path / "one"), "a", quantization="fp8").exists("k")


def test_a_hub_name_is_shared_by_the_ranks_alone_unless_a_commit_says_which(world, caplog):
    def engine(revision):
        world.store = Store()
        world.arguments = types.SimpleNamespace(model_path="some/model", revision=revision)
        return world.ranks(2, model_id=None, is_mla_model=True)

    ranks = engine(None)
    stored(ranks[0], "k", page(1))
    assert loaded(ranks[1], "k") == 1
    assert not engine(None)[0].exists("k")
    assert not engine("main")[0].exists("k")
    assert "give a readable local folder, --revision with a commit of 40 digits, or model_id" in caplog.text
    stored(engine("0" * 40)[0], "k", page(3))
    assert loaded(engine("0" * 40)[1], "k") == 3


def test_ranks_of_mla_models_ask_once_as_far_as_the_trace_is_concerned(world):
    ranks = world.ranks(4, is_mla_model=True)
    for keys in (["a", "b"], ["a", "b", "c"]):
        (hits,) = {rank.batch_exists(keys) for rank in ranks}
        assert ranks[0].batch_set(keys[hits:], [page(1) for _ in keys[hits:]])
        deadline_s = time.monotonic() + 60
        while ranks[3].batch_exists(keys) < len(keys):
            assert time.monotonic() < deadline_s, "they are not stored"
    for rank in ranks:
        rank.close()
    lines = []
    deadline_s = time.monotonic() + 60
    while len(lines) < 2 and time.monotonic() < deadline_s:  # until the node has seen them go
        with urllib.request.urlopen(f"http://{world.node.admin}/v1/trace") as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
    assert [(len(line["hash_ids"]), line["hit_blocks"]) for line in lines] == [(2, 0), (3, 2)]
    assert not any("unreliable" in line for line in lines)
