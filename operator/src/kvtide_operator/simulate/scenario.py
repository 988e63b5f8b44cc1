"""A scenario: everything about a simulation that the planner does not choose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvtide_cachenode.placement import SsdWrites
from kvtide_operator.simulate.batch import MAX_REQUESTS
from kvtide_operator.simulate.cache.pool import Offload, Routing
from kvtide_operator.simulate.engine.profile import EngineProfile
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.media import MediumSpeed
from kvtide_operator.simulate.prices import Price, VolumeSizes, one_currency
from kvtide_operator.simulate.requests import Semantics
from kvtide_operator.simulate.simulation import Loading, Reload
from kvtide_operator.workload.trace import Trace

LOAD_BYTES_S_PER_GPU = 50e9
"""DRAM to GPU: PCIe 5.0 x16 carries 63 GB/s, large copies reach about 50. General knowledge, not measured
here."""

SSD_HEADROOM = 1.1
"""SSD provisioned / most bytes held at once."""


@dataclass(frozen=True, slots=True)
class SsdClass:
    """A class of SSD volumes: price, speed and the sizes it is sold in."""

    price: Price
    speed: MediumSpeed
    sizes: VolumeSizes = field(default_factory=VolumeSizes)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scenario:
    """A workload, engines, tiers and the rules between them.

    Attributes:
        trace: every request of a time window; arrivals in coarse ticks are spread within them.
        profile: step times and KV room of an engine.
        kv_bytes_per_token: of all layers and ranks together, uncompressed.
        dram_price: price of DRAM.
        ssd_classes: the classes a configuration may name.
        gpu_hour: price of a GPU for an hour.
        tiers_per_hour: price of DRAM bytes, SSD bytes and the SSD's class where more is paid for than the
            tiers; None where they are all.
        gpu_cache_bytes: room for cached KV on an engine's GPUs; None for all its KV room. A trace that nodes
            observed has none: the GPUs have filtered it already.
        dram_compression: bytes of a block / bytes it takes in DRAM.
        ssd_compression: bytes of a block / bytes it takes on SSD.
        load_bytes_s: DRAM to an engine's GPUs; None for `LOAD_BYTES_S_PER_GPU` for each.
        offload: when blocks go from the GPU to DRAM.
        semantics: which blocks are cached and can hit, see `requests.requests_of`.
        routing: how requests find their engine.
        reload: when blocks are read from SSD: only while a request waits for its turn (SGLang's rule), or
            asynchronously if that takes less time than computing them (vLLM's).
        loading: how blocks come from DRAM: layer by layer during the step that begins the prefill, or looked
            up and loaded while other requests' steps run; only the end of a step notices that either is
            done (vLLM's asynchronous connectors).
        ssd_writes: which demotions are written to SSD.
        chunk_tokens: tokens of one step.
        max_sequences: requests admitted at a time, per engine.
        ssd_max_bytes: the byte cap of the SSD tier, None for what the class sells.
        ssd_index_bytes: DRAM that a copy on SSD takes for its place in the index.
        first_request: requests before this one fill the caches; all figures are of the others.
        block_group: int8[unique blocks], the TTL group of each block; None for one group.
        seed: of the spreading of arrivals.
    """

    trace: Trace
    profile: EngineProfile
    kv_bytes_per_token: int
    dram_price: Price
    gpu_hour: float
    ssd_classes: Mapping[str, SsdClass] = field(default_factory=dict)
    tiers_per_hour: Callable[[int, int, str | None], float] | None = None
    gpu_cache_bytes: int | None = None
    dram_compression: float = 1.0
    ssd_compression: float = 1.0
    load_bytes_s: float | None = None
    offload: Offload = "writeThrough"
    semantics: Semantics = "mooncake"
    routing: Routing = "roundRobin"
    reload: Reload = "queueing"
    loading: Loading = "layered"
    ssd_writes: SsdWrites = "always"
    chunk_tokens: int = 8192
    max_sequences: int = 256
    ssd_max_bytes: int | None = None
    ssd_index_bytes: int = 0
    first_request: int = 0
    block_group: NDArray[np.int8] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        requests = self.trace.requests
        if requests == 0:
            raise SimulationError("the trace has no requests: give one with at least one")
        if not 0 <= self.first_request < requests:
            raise SimulationError(
                f"first_request is {self.first_request}: give one of the {requests} requests of the trace"
            )
        if requests >= MAX_REQUESTS:
            raise SimulationError(f"{requests} requests: simulate fewer than {MAX_REQUESTS} at a time")
        if np.any(np.diff(self.trace.arrival_s) < 0):
            raise SimulationError("arrivals go backwards: sort the trace by time")
        if np.any(self.trace.weight != 1):
            raise SimulationError(
                "the trace is a sample (its weights are not 1): latencies need every request of a window"
            )
        for name in ("kv_bytes_per_token", "dram_compression", "ssd_compression", "chunk_tokens"):
            if not getattr(self, name) > 0:
                raise SimulationError(f"{name} is {getattr(self, name)}: give a number above 0")
        if self.max_sequences < 1 or self.chunk_tokens <= self.max_sequences:
            raise SimulationError(
                f"max_sequences is {self.max_sequences}: give at least 1 and fewer than the "
                f"{self.chunk_tokens} tokens of a step, or no prompt finds room in it"
            )
        if self.block_group is not None and len(self.block_group) != self.trace.unique_blocks:
            raise SimulationError(
                f"{len(self.block_group)} blocks have a group, the trace has {self.trace.unique_blocks}"
            )
        one_currency([self.dram_price.currency, *(each.price.currency for each in self.ssd_classes.values())])

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, uncompressed."""
        return self.kv_bytes_per_token * self.trace.block_tokens

    @property
    def dram_block_bytes(self) -> float:
        """Bytes a block takes in DRAM."""
        return self.block_bytes / self.dram_compression

    @property
    def ssd_block_bytes(self) -> float:
        """Bytes a block takes on SSD."""
        return self.block_bytes / self.ssd_compression

    @property
    def dram_load_bytes_s(self) -> float:
        """Bytes a second from DRAM to an engine's GPUs."""
        return self.load_bytes_s or LOAD_BYTES_S_PER_GPU * self.profile.gpus

    @property
    def device_blocks(self) -> int:
        """Blocks that an engine's GPU cache holds."""
        if self.trace.observed_at == "node":
            return 0
        if self.gpu_cache_bytes is None:
            return self.profile.kv_capacity_tokens // self.trace.block_tokens
        return self.gpu_cache_bytes // self.block_bytes

    @property
    def groups(self) -> int:
        """How many TTL groups there are."""
        return 1 if self.block_group is None else int(self.block_group.max(initial=0)) + 1
