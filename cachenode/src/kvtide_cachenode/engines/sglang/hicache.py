"""`KvtideHiCache`: SGLang HiCache's third tier in kvtide's cache nodes, as a ``dynamic`` storage backend.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{"backend_name": "kvtide",
      "module_path": "kvtide_cachenode.engines.sglang.hicache", "class_name": "KvtideHiCache",
      "kvtide": {"nodes": "cache-0:6379"}}'

SGLang calls this from threads of its own, one for look-ups and loads, one for stores, so loads wait here.
Written against SGLang 0.5.23; the pages' depth in their prompt is not known, so they have no root.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

from kvtide_cachenode.engines.block_keys import BlockName, rank_name
from kvtide_cachenode.engines.container import HEADER_BYTES
from kvtide_cachenode.engines.loading import Loader, LoadJob
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.options import read_options
from kvtide_cachenode.engines.sglang.names import ModelNames
from kvtide_cachenode.engines.storing import Storer
from kvtide_cachenode.engines.tally import Tally

if TYPE_CHECKING:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig


class _PageSlot:
    """Staging memory of one page."""

    def __init__(self, page_bytes: int) -> None:
        self.memory = memoryview(bytearray(HEADER_BYTES + page_bytes))


class KvtideHiCache(HiCacheStorage):
    """Pages of one rank. SGLang makes it, then calls `register_mem_pool_host`, then the others.

    Raises:
        OptionsError: the ``kvtide`` part of the extra configuration is wrong.
        ValueError: SGLang is configured in a way that this must not run with.
    """

    def __init__(self, storage_config: "HiCacheStorageConfig", factory_arguments: object) -> None:
        del factory_arguments  # the factory passes what it was called with to every dynamic backend
        extra = storage_config.extra_config or {}
        if storage_config.attn_cp_size > 1 or storage_config.dcp_size > 1:
            raise ValueError("context parallelism spreads a page over workers; start without it or kvtide")
        if extra.get("interface_v1"):
            raise ValueError("interface_v1 in the extra configuration is not served; leave it out")
        self._options = read_options(extra.get("kvtide", {}), "hicache-storage-backend-extra-config: kvtide")
        # MLA pages are the same on all tensor-parallel ranks, of which SGLang lets one store.
        tensor_parallel = 1 if storage_config.is_mla_model else storage_config.tp_size
        tensor_rank = 0 if storage_config.is_mla_model else storage_config.tp_rank
        self._rank = rank_name(
            storage_config.pp_rank * tensor_parallel + tensor_rank, tensor_parallel, storage_config.pp_size
        )
        self._names = ModelNames(storage_config, self._options.model_id)
        self._model = self._names.advance()
        self._head: bytes | None = None  # nothing is exchanged without
        self._page_bytes = 0
        self._tally = Tally()
        repeats = storage_config.is_mla_model and storage_config.tp_rank > 0
        credentials = replace(self._options.credentials(), repeats=repeats)
        self._nodes = NodeSet(self._options.addresses(), credentials)
        self._lookups = Lookups(self._nodes, [self._rank])
        self._loader: Loader[_PageSlot] | None = None
        self._storer: Storer[_PageSlot] | None = None
        self._numbers = count()
        self._targets: dict[int, memoryview] = {}
        self._lock = Lock()

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pages' pool: what it tells of their form keeps other forms apart."""
        if self._loader is not None:
            self._refuse_another(mem_pool_host, "second")
            return
        super().register_mem_pool_host(mem_pool_host)
        page_bytes = mem_pool_host.get_dummy_flat_data_page().nbytes
        dtype = str(mem_pool_host.dtype).removeprefix("torch.")
        form = getattr(mem_pool_host, "storage_format_tag", None) or mem_pool_host.layout
        self._layout = f"s1-{dtype}-{form}-{mem_pool_host.page_size}x{page_bytes}"
        self._page_bytes = page_bytes

        def make_slot() -> _PageSlot:
            return _PageSlot(page_bytes)

        options, slots = self._options, max(1, self._options.store_buffer_bytes() // page_bytes)
        self._loader = Loader(self._nodes, make_slot, self._scatter, options.load_threads, self._tally)
        self._storer = Storer(self._nodes, make_slot, slots, options.store_threads, self._tally)
        self._head = self._make_head()

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """All pools are named here, the pages' own among them; there must be no other."""
        self._refuse_another(host_pool, str(host_pool_name))

    def clear(self) -> None:
        """SGLang's weights have changed, or are about to: use other names from now on, on every rank."""
        self._head = None  # if there is no new name, nothing is exchanged
        self._model = self._names.advance()
        self._head = self._make_head()

    def get(
        self, key: str, target_location: torch.Tensor | None = None, target_sizes: object = None
    ) -> torch.Tensor | None:
        """Fill ``target_location`` with a page; None when it is not there."""
        return self.batch_get([key], [target_location], target_sizes)[0]

    def batch_get(
        self,
        keys: Sequence[str],
        target_locations: Sequence[torch.Tensor | None] | None = None,
        target_sizes: object = None,  # noqa: ARG002 - SGLang's signature
    ) -> list[torch.Tensor | None]:
        """Fill each location with its page; None in the place of those that are not there in time."""
        assert target_locations is not None, "SGLang gives memory for every page"
        head, loader = self._head, self._loader
        if head is None or loader is None:
            return [None] * len(keys)
        numbers = [next(self._numbers) for _ in keys]
        try:
            blocks = []
            for number, key, target in zip(numbers, keys, target_locations, strict=True):
                assert target is not None, "SGLang gives memory for every page"
                self._targets[number] = self._page(target)
                blocks.append((_name(head, key).key(self._rank), number))
            job = LoadJob("", blocks, monotonic() + self._options.load_timeout_s)
            with self._lock:
                loader.start(job)
                loader.wait(job)
        finally:
            for number in numbers:
                self._targets.pop(number, None)
        # What was asked for under a name that is no longer ours is of other weights.
        is_ours = self._head == head
        return [
            target if is_ours and number not in job.missing else None
            for number, target in zip(numbers, target_locations, strict=True)
        ]

    def set(
        self,
        key: str,
        value: torch.Tensor | None = None,
        target_location: object = None,  # noqa: ARG002 - SGLang's signature
        target_sizes: object = None,  # noqa: ARG002 - SGLang's signature
    ) -> bool:
        """Copy a page and store it soon; False when it is dropped."""
        assert value is not None, "SGLang gives the page itself"
        head, storer = self._head, self._storer
        if head is None or storer is None:
            return False
        page = self._page(value.contiguous())

        def gather(slot: _PageSlot) -> None:
            slot.memory[HEADER_BYTES:] = page

        return storer.offer(_name(head, key).key(self._rank), 1.0, gather)

    def batch_set(
        self,
        keys: Sequence[str],
        values: Sequence[torch.Tensor] | None = None,
        target_locations: object = None,  # noqa: ARG002 - SGLang's signature
        target_sizes: object = None,  # noqa: ARG002 - SGLang's signature
    ) -> bool:
        """Store pages in order; False from the first that is dropped, whose successors are of no use."""
        assert values is not None, "SGLang gives the pages themselves"
        return all(self.set(key, value) for key, value in zip(keys, values, strict=True))

    def exists(self, key: str) -> bool:
        """Whether a page is there."""
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: Sequence[str], extra_info: object = None) -> int:  # noqa: ARG002 - SGLang's
        """How many of the first pages are there."""
        head = self._head
        if head is None:
            return 0
        names = [_name(head, key) for key in keys]
        found = self._lookups.start(names, self._options.lookup_timeout_s).result()
        return found.blocks if self._head == head else 0

    def close(self) -> None:
        """End all threads, stores after a short wait."""
        for part in (self._lookups, self._loader, self._storer, self._nodes):
            if part is not None:
                part.close()

    def _make_head(self) -> bytes:
        return f"kvt:{self._model}:{self._layout}".encode()

    def _refuse_another(self, pool: Any, name: str) -> None:
        if pool is not self.mem_pool_host:
            raise ValueError(
                f"SGLang keeps a pool {name!r} beside that of the pages (for a draft model, or for Mamba or"
                " sliding window layers), without which a page is of no use; start without it or kvtide"
            )

    def _page(self, tensor: torch.Tensor) -> memoryview:
        page = _bytes_of(tensor)
        if len(page) != self._page_bytes:
            raise ValueError(
                f"a page has {len(page)} bytes, and those of the registered pool have {self._page_bytes}:"
                " this SGLang is not known; use 0.5.23"
            )
        return page

    def _scatter(self, slot: _PageSlot, number: int) -> None:
        self._targets[number][:] = slot.memory[HEADER_BYTES:]


def _name(head: bytes, key: str) -> BlockName:
    return BlockName(head, b"-:0:" + key.encode())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
