"""The scheduler's side: which blocks of a request the nodes hold, what to load, what to store."""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtide_cachenode.engines.block_keys import BlockName, names, trace_ids
from kvtide_cachenode.engines.loading import IDLE_WAIT_S
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.trace_reporter import TraceReporter
from kvtide_cachenode.engines.vllm_metadata import Load, StepMetadata, Store
from kvtide_cachenode.engines.vllm_namespace import Namespace
from kvtide_cachenode.trace_line import EngineLine

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request


@dataclass(slots=True)
class _Tracked:
    """What is known of one unfinished request, in blocks from the start of its prompt.

    ``first`` is where the look-up begins: the engine itself has what is before it. Blocks below
    ``stored_end`` need not be stored: they are in the engine from before, or in the nodes.
    """

    request: "Request"
    first: int = 0
    stored_end: int = 0
    lookup: "Future[int] | None" = None
    loaded_after: int | None = None  # preemptions before the last load
    began_s: float = 0.0
    local_hit_blocks: int = 0
    hit_blocks: int | None = None  # the nodes' and the local ones; None until the request has blocks


class SchedulerSide:
    """Lives in the scheduler's process and never waits for a node. Without ``lookups`` nothing is loaded."""

    def __init__(
        self,
        namespace: Namespace,
        lookups: Lookups | None,
        reporter: TraceReporter | None,
        tally: Tally,
        block_tokens: int,
        hash_tokens: int,
        root_depth: int,
        lookup_timeout_s: float,
    ) -> None:
        self._namespace = namespace
        self._lookups = lookups
        self._reporter = reporter
        self._tally = tally
        self._block_tokens = block_tokens
        self._hashes_per_block = block_tokens // hash_tokens
        self._root_depth = root_depth
        self._lookup_timeout_s = lookup_timeout_s
        self._requests: dict[str, _Tracked] = {}
        self._loads: list[Load] = []

    def add(self, request: "Request") -> None:
        """A request has come."""
        self._requests[request.request_id] = _Tracked(request)

    def matched_tokens(self, request: "Request", computed_tokens: int) -> int | None:
        """Tokens that can be loaded behind the first ``computed_tokens``; None while that is looked up."""
        tracked = self._requests[request.request_id]
        first = computed_tokens // self._block_tokens
        # A load of which nothing arrived brings its request back here. What the nodes have cannot be loaded
        # then: it is computed and stored anew, or this would go on for ever.
        if self._lookups is None or tracked.loaded_after == request.num_preemptions:
            tracked.first = tracked.stored_end = first
            return 0
        if tracked.lookup is None or tracked.first != first:
            tracked.first = first
            wanted = [] if request.skip_reading_prefix_cache else self._names(request, first)
            tracked.began_s = time.monotonic()
            tracked.lookup = self._lookups.start(wanted)
        waited_s = time.monotonic() - tracked.began_s
        if tracked.lookup.done():
            hits = tracked.lookup.result()
        elif waited_s >= self._lookup_timeout_s:
            self._tally.add("lookup_timeouts")
            hits = 0
        else:
            return None
        self._tally.add("lookups")
        self._tally.add("lookup_seconds", waited_s)
        tracked.stored_end = first + hits
        return hits * self._block_tokens

    def allocated(self, request: "Request", blocks: "KVCacheBlocks", external_tokens: int) -> None:
        """The request has blocks: load into them what the look-up found."""
        tracked = self._requests[request.request_id]
        first, count = tracked.first, external_tokens // self._block_tokens
        if tracked.hit_blocks is None:
            tracked.local_hit_blocks, tracked.hit_blocks = first, first + count
        tracked.lookup = None  # a preempted request looks again
        if count:
            tracked.loaded_after = request.num_preemptions
            block_ids = blocks.get_block_ids()[0]
            wanted = self._names(request, first)[:count]
            before = block_ids[first - 1] if first else None
            self._loads.append(Load(request.request_id, wanted, block_ids[first : first + count], before))

    def step(self, output: "SchedulerOutput") -> StepMetadata:
        """The transfers of a step that is about to run."""
        is_idle = not output.total_num_scheduled_tokens
        if is_idle and not self._loads:
            self._await_lookup()
        metadata = StepMetadata(loads=self._loads, is_idle=is_idle)
        self._loads = []
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id, tokens in computed.items():
            tracked = self._requests.get(request_id)
            if tracked is None:
                continue
            # A load that failed is computed again, and what the nodes have there is replaced.
            tracked.stored_end = min(tracked.stored_end, tokens // self._block_tokens)
            full = (tokens + output.num_scheduled_tokens[request_id]) // self._block_tokens
            full = min(full, len(tracked.request.block_hashes) // self._hashes_per_block)
            if full > tracked.stored_end:
                state = output.kv_connector_block_state
                (block_ids,) = state.get_block_ids(request_id)
                metadata.stores += self._stores(tracked, full, block_ids)
                tracked.stored_end = full
        return metadata

    def finished(self, request: "Request") -> None:
        """A request has ended: report it."""
        tracked = self._requests.pop(request.request_id, None)
        if tracked is None or tracked.hit_blocks is None or self._reporter is None:
            return
        hashes = self._hashes(request)[: request.num_prompt_tokens // self._block_tokens]
        rest = request.all_token_ids[len(hashes) * self._block_tokens : request.num_prompt_tokens]
        self._reporter.report(
            EngineLine(
                timestamp=int(request.arrival_time * 1000),
                input_length=request.num_prompt_tokens,
                output_length=request.num_output_tokens,
                hash_ids=trace_ids(hashes, rest),
                hit_blocks=tracked.hit_blocks,
                local_hit_blocks=tracked.local_hit_blocks,
            )
        )

    def close(self) -> None:
        """End the look-ups and send what waits of the trace."""
        if self._lookups is not None:
            self._lookups.close()
        if self._reporter is not None:
            self._reporter.close()

    def renew(self) -> None:
        """The weights have changed: nothing stored until now may be loaded."""
        self._namespace.renew()

    def _await_lookup(self) -> None:
        """Wait a moment for a look-up that a request waits for: vLLM would ask again at once, and again."""
        waiting = [one.lookup for one in self._requests.values() if one.lookup is not None]
        if waiting:
            wait(waiting, IDLE_WAIT_S, FIRST_COMPLETED)

    def _stores(self, tracked: _Tracked, end: int, block_ids: Sequence[int]) -> list[Store]:
        start = tracked.stored_end
        before = [None, *block_ids]
        wanted = self._names(tracked.request, start, end)
        return [Store(name, block_ids[at], before[at]) for at, name in enumerate(wanted, start)]

    def _names(self, request: "Request", first: int, last: int | None = None) -> list[BlockName]:
        hashes = self._hashes(request)
        head = self._namespace.head(request.lora_request)
        return names(head, hashes, self._root_depth, first, len(hashes) if last is None else last)

    def _hashes(self, request: "Request") -> Sequence[bytes]:
        if self._hashes_per_block == 1:
            return request.block_hashes
        return request.block_hashes[self._hashes_per_block - 1 :: self._hashes_per_block]
