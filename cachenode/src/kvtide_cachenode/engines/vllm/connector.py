"""`KvtideConnector`: vLLM's KV connector that keeps blocks in kvtide's cache nodes.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "KvtideConnector",
      "kv_connector_module_path": "kvtide_cachenode.engines.vllm.connector", "kv_role": "kv_both",
      "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"nodes": "cache-0:6379"}}'

Loads are always asynchronous: a request waits for its blocks while others compute. Stores are copied out of
the KV cache before a step ends, so no block is held back for them. Written against vLLM 0.32.
"""

from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

from kvtide_cachenode.engines.block_keys import all_ranks, rank_name
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.options import read_options
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.trace_reporter import TraceReporter
from kvtide_cachenode.engines.vllm.metadata import StepMetadata
from kvtide_cachenode.engines.vllm.metrics import KvtidePromMetrics, KvtideStats
from kvtide_cachenode.engines.vllm.namespace import check, layer_shape, namespace
from kvtide_cachenode.engines.vllm.scheduler import SchedulerSide
from kvtide_cachenode.engines.vllm.worker import WorkerSide

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class KvtideConnector(KVConnectorBase_V1):
    """One of the two sides, as ``role`` says.

    Raises:
        OptionsError: ``kv_connector_extra_config`` is wrong.
        UnsupportedError: vLLM is configured in a way the connector must not run with.
    """

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._spec = check(vllm_config, kv_cache_config)
        self._shape = layer_shape(vllm_config, self._spec)
        transfer = vllm_config.kv_transfer_config
        self._options = read_options(transfer.kv_connector_extra_config, "kv_connector_extra_config")
        self._stores = transfer.is_kv_producer
        self._tally = Tally()
        self._nodes = NodeSet(self._options.addresses(), self._options.credentials())
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._start_scheduler_side(vllm_config, kv_cache_config)

    @property
    def requires_kv_delivery(self) -> bool:
        """A block that is not stored is a later miss, nothing more."""
        return False

    # The scheduler's side.

    def on_new_request(self, request: "Request") -> None:
        """A request has come."""
        self._scheduling.add(request)

    def get_num_new_matched_tokens(
        self, request: "Request", num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens that can be loaded, None while the look-up runs; loads are asynchronous."""
        tokens = self._scheduling.matched_tokens(request, num_computed_tokens)
        return tokens, bool(tokens)

    def update_state_after_alloc(
        self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int
    ) -> None:
        """The request has blocks."""
        self._scheduling.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        """What the workers do in this step."""
        return self._scheduling.step(scheduler_output)

    def request_finished(
        self,
        request: "Request",
        block_ids: list[int],  # noqa: ARG002 - vLLM's signature
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request has ended; its blocks may be freed at once."""
        self._scheduling.finished(request)
        return False, None

    def reset_cache(self) -> bool:
        """vLLM says that cached KV is no longer valid: use other keys from now on."""
        self._scheduling.renew()
        return True

    # The worker's side.

    def register_kv_caches(self, kv_caches: "dict[str, torch.Tensor]") -> None:
        """The layers' caches are there."""
        parallel = self._vllm_config.parallel_config
        rank = rank_name(
            parallel.rank % parallel.world_size,
            parallel.tensor_parallel_size,
            parallel.pipeline_parallel_size,
        )
        self._worker = WorkerSide(self._shape, kv_caches, rank, self._nodes, self._options, self._tally)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """A step begins."""
        super().bind_connector_metadata(connector_metadata)
        # vLLM calls `start_load_kv` when the step is launched, which on a CPU is when it is over.
        if self._worker is not None and self._worker.is_on_cpu:
            self._worker.start_loads(self._step_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002 - vLLM's signature
        """Begin this step's loads."""
        if self._worker is not None and not self._worker.is_on_cpu:
            self._worker.start_loads(self._step_metadata)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request runs when all its blocks are there."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: "torch.Tensor", attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing yet: blocks are copied when the step has filled them in all layers."""

    def wait_for_save(self) -> None:
        """Copy the blocks that this step has filled."""
        if self._worker is not None and self._stores:
            self._worker.store(self._step_metadata)

    def get_finished(
        self,
        finished_req_ids: set[str],  # noqa: ARG002 - vLLM's signature
    ) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose loads are over."""
        if self._worker is None:
            return None, None
        return None, self._worker.ended_loads(self._step_metadata.is_idle) or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks of these loads that vLLM has to compute."""
        return self._worker.take_failed_ids() if self._worker is not None else set()

    # Both sides.

    def get_kv_connector_stats(self) -> KvtideStats | None:
        """What was counted since the last call."""
        sums = self._tally.take()
        return KvtideStats(data=sums) if sums else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KvtideStats:
        """The statistics that ``data`` holds."""
        return KvtideStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, *arguments: Any) -> KvtidePromMetrics:
        """The counters at vLLM's ``/metrics``."""
        return KvtidePromMetrics(*arguments)

    def shutdown(self) -> None:
        """End all threads."""
        for part in (self._worker, self._scheduler, self._nodes):
            if part is not None:
                part.close()

    @property
    def _scheduling(self) -> SchedulerSide:
        assert self._scheduler is not None, "vLLM calls this on the scheduler's side"
        return self._scheduler

    @property
    def _step_metadata(self) -> StepMetadata:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata), "it is what build_connector_meta made"
        return metadata

    def _start_scheduler_side(self, config: "VllmConfig", caches: "KVCacheConfig") -> None:
        options, parallel = self._options, config.parallel_config
        layers = len(caches.kv_cache_groups[0].layer_names)
        lookups = None
        if config.kv_transfer_config.is_kv_consumer:
            ranks = all_ranks(parallel.tensor_parallel_size, parallel.pipeline_parallel_size)
            lookups = Lookups(self._nodes, ranks)
        self._scheduler = SchedulerSide(
            namespace=namespace(config, self._shape, layers, options.model_id),
            lookups=lookups,
            reporter=TraceReporter(self._nodes, self._tally) if options.trace else None,
            tally=self._tally,
            block_tokens=self._spec.block_size,
            hash_tokens=caches.hash_block_size or self._spec.block_size,
            root_depth=options.root_depth,
            lookup_timeout_s=options.lookup_timeout_s,
        )
