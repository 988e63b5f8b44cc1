"""A worker's side: copies blocks between its part of the KV cache and the nodes."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from kvtide_cachenode.engines.adapter_files import AdapterFiles
from kvtide_cachenode.engines.block_layout import BlockLayout, LayerShape, TensorSlot
from kvtide_cachenode.engines.loading import IDLE_WAIT_S, Loader, LoadJob
from kvtide_cachenode.engines.model_digest import WeightsError
from kvtide_cachenode.engines.namespace import AdapterVersion
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.storing import Storer
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.vllm.metadata import Load, StepMetadata, Store

if TYPE_CHECKING:
    from kvtide_cachenode.engines.options import Options


class WorkerSide:
    """Lives in a worker's process; its methods are called between the model's steps.

    ``quality`` holds for each block the lowest quality of anything its KV was computed on (1.0: no lossy
    step), which its successors inherit and its container says.
    """

    def __init__(
        self,
        shape: LayerShape,
        caches: Mapping[str, torch.Tensor],
        rank: bytes,
        nodes: NodeSet,
        options: "Options",
        tally: Tally,
    ) -> None:
        self.is_on_cpu = all(cache.device.type == "cpu" for cache in caches.values())
        self._layout = BlockLayout(shape, caches)
        self._rank = rank
        self._load_timeout_s = options.load_timeout_s
        self._tally = tally
        self._quality = [1.0] * self._layout.blocks
        self._loader: Loader[TensorSlot] = Loader(
            nodes, self._layout.make_slot, self._layout.scatter, options.load_threads, tally
        )
        slots = max(1, options.store_buffer_bytes() // self._layout.block_bytes)
        self._storer: Storer[TensorSlot] = Storer(
            nodes, self._layout.make_slot, slots, options.store_threads, tally
        )
        self._adapters = AdapterFiles()
        self._loads: dict[str, Load] = {}
        self._failed_ids: set[int] = set()

    def start_loads(self, metadata: StepMetadata) -> None:
        """Begin this step's loads."""
        for load in metadata.loads:
            self._loads[load.request_id] = load
            keys = [name.key(self._rank) for name in load.names]
            deadline_s = time.monotonic() + self._load_timeout_s
            blocks = list(zip(keys, load.block_ids, strict=True))
            self._loader.start(LoadJob(load.request_id, blocks, deadline_s))

    def store(self, metadata: StepMetadata) -> None:
        """Copy the blocks that are full now; they are sent while the model goes on."""
        for store in metadata.stores:
            lineage = self._inherited(store.before)
            self._quality[store.block_id] = lineage
            self._store(store, lineage)

    def ended_loads(self, is_idle: bool) -> set[str]:
        """Requests whose loads are over, complete or not, each once and never after its deadline.

        With ``is_idle``, when the step computes nothing, it waits a moment for the first of them.
        """
        jobs = self._loader.ended(IDLE_WAIT_S if is_idle else 0.0)
        for job in jobs:
            load = self._loads.pop(job.request_id)
            before = load.before
            for block_id in load.block_ids:
                inherited = self._inherited(before)
                self._quality[block_id] = min(inherited, job.lowest_quality.get(block_id, 1.0))
                before = block_id
            self._failed_ids |= job.missing
        return {job.request_id for job in jobs}

    def take_failed_ids(self) -> set[int]:
        """Ids of blocks that ended loads left without content, each once."""
        failed, self._failed_ids = self._failed_ids, set()
        return failed

    def close(self) -> None:
        """End all transfers, stores after a short wait."""
        self._loader.close()
        self._storer.close()

    def _store(self, store: Store, lineage: float) -> None:
        block_id, adapter = store.block_id, store.adapter
        self._storer.offer(
            store.name.key(self._rank),
            lineage,
            lambda slot: self._layout.gather(block_id, slot),
            None if adapter is None else lambda: self._is_on_disk(adapter),
        )

    def _is_on_disk(self, adapter: AdapterVersion) -> bool:
        try:
            return self._adapters.digest(adapter.path) == adapter.digest
        except WeightsError:
            return False

    def _inherited(self, block_id: int | None) -> float:
        return 1.0 if block_id is None else self._quality[block_id]
