"""What the scheduler's side of the connector tells the workers' side at each step."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from kvtide_cachenode.engines.block_keys import BlockName
from kvtide_cachenode.engines.namespace import AdapterVersion


@dataclass(frozen=True, slots=True)
class Load:
    """Blocks to fetch for a request, into these block ids; ``before`` precedes the first, if any."""

    request_id: str
    names: list[BlockName]
    block_ids: list[int]
    before: int | None


@dataclass(frozen=True, slots=True)
class Store:
    """A block that is full after this step; ``before`` is the block id of its predecessor.

    ``adapter`` is the LoRA adapter that it is computed with, as it was when the block was named.
    """

    name: BlockName
    block_id: int
    before: int | None
    adapter: AdapterVersion | None = None


@dataclass
class StepMetadata(KVConnectorMetadata):
    """One step's transfers; ``is_idle`` says that the step computes nothing."""

    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    is_idle: bool = False
