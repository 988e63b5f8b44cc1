"""`KvtideHiCache`: SGLang HiCache's third tier in kvtide's cache nodes, as a ``dynamic`` storage backend.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{"backend_name": "kvtide",
      "module_path": "kvtide_cachenode.engines.sglang_hicache", "class_name": "KvtideHiCache",
      "kvtide": {"nodes": "cache-0:6379"}}'

SGLang calls this from threads of its own, one for look-ups and loads, one for stores, so loads wait here.
Written against SGLang 0.5.23; the pages' depth in their prompt is not known, so they have no root.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

from kvtide_cachenode.engines.block_keys import MODEL_DIGITS, BlockName, rank_name
from kvtide_cachenode.engines.container import HEADER_BYTES
from kvtide_cachenode.engines.loading import Loader, LoadJob
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.model_digest import digest
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.options import read_options
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
        ValueError: context parallelism is on.
    """

    def __init__(self, storage_config: "HiCacheStorageConfig", factory_arguments: object) -> None:
        del factory_arguments  # the factory passes what it was called with to every dynamic backend
        if storage_config.attn_cp_size > 1 or storage_config.dcp_size > 1:
            raise ValueError("context parallelism spreads a page over workers; start without it or kvtide")
        where = "hicache-storage-backend-extra-config: kvtide"
        self._options = read_options((storage_config.extra_config or {}).get("kvtide", {}), where)
        # MLA pages are the same on all tensor-parallel ranks, of which SGLang lets one store.
        tensor_parallel = 1 if storage_config.is_mla_model else storage_config.tp_size
        tensor_rank = 0 if storage_config.is_mla_model else storage_config.tp_rank
        self._rank = rank_name(
            storage_config.pp_rank * tensor_parallel + tensor_rank, tensor_parallel, storage_config.pp_size
        )
        name = storage_config.model_name or ""
        folder = Path(name) if name and any(Path(name).glob("*.safetensors")) else None
        facts = {"engine": "sglang", "name": self._options.model_id or (None if folder else name)}
        self._model = digest(facts, None if self._options.model_id else folder, MODEL_DIGITS)
        self._tally = Tally()
        self._nodes = NodeSet(self._options.addresses(), self._options.credentials())
        self._lookups = Lookups(self._nodes, [self._rank], self._options.lookup_timeout_s)
        self._numbers = count()
        self._targets: dict[int, memoryview] = {}
        self._lock = Lock()

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pages' pool: what it tells of their form keeps other forms apart."""
        super().register_mem_pool_host(mem_pool_host)
        page_bytes = mem_pool_host.get_dummy_flat_data_page().nbytes
        dtype = str(mem_pool_host.dtype).removeprefix("torch.")
        layout = f"s1-{dtype}-{mem_pool_host.layout}-{mem_pool_host.page_size}x{page_bytes}"
        self._head = f"kvt:{self._model}:{layout}".encode()

        def make_slot() -> _PageSlot:
            return _PageSlot(page_bytes)

        options, slots = self._options, max(1, self._options.store_buffer_bytes() // page_bytes)
        self._loader = Loader(self._nodes, make_slot, self._scatter, options.load_threads, self._tally)
        self._storer = Storer(self._nodes, make_slot, slots, options.store_threads, self._tally)

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
        numbers = [next(self._numbers) for _ in keys]
        blocks = []
        for number, key, target in zip(numbers, keys, target_locations, strict=True):
            assert target is not None, "SGLang gives memory for every page"
            self._targets[number] = _bytes_of(target)
            blocks.append((self._name(key).key(self._rank), number))
        job = LoadJob("", blocks, monotonic() + self._options.load_timeout_s)
        with self._lock:
            self._loader.start(job)
            self._loader.wait(job)
        for number in numbers:
            del self._targets[number]
        return [
            None if number in job.missing else target
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
        page = _bytes_of(value.contiguous())

        def gather(slot: _PageSlot) -> None:
            slot.memory[HEADER_BYTES:] = page

        return self._storer.offer(self._name(key).key(self._rank), 1.0, gather)

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
        return self._lookups.start([self._name(key) for key in keys]).result()

    def close(self) -> None:
        """End all threads, stores after a short wait."""
        self._lookups.close()
        self._loader.close()
        self._storer.close()
        self._nodes.close()

    def _name(self, key: str) -> BlockName:
        return BlockName(self._head, b"-:0:" + key.encode())

    def _scatter(self, slot: _PageSlot, number: int) -> None:
        self._targets[number][:] = slot.memory[HEADER_BYTES:]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
