"""The scheduler's side: which blocks of a request the nodes hold, what to load, what to store."""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Protocol

from kvtide_cachenode.contract.trace_line import EngineLine
from kvtide_cachenode.engines.block_keys import BlockName, names, trace_ids
from kvtide_cachenode.engines.loading import IDLE_WAIT_S
from kvtide_cachenode.engines.lookup import Found, Lookups
from kvtide_cachenode.engines.namespace import Head, LoraRequest
from kvtide_cachenode.engines.request_state import ComputedUnder, Search, Tracked
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.trace_reporter import TraceReporter
from kvtide_cachenode.engines.vllm.metadata import Load, StepMetadata, Store

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request


class Heads(Protocol):
    """What gives keys their beginning: `namespace.Namespace`."""

    def head(self, lora: LoraRequest | None) -> "Future[Head | None]":
        """For requests with this adapter."""

    def renew(self) -> None:
        """Share nothing with what was stored until now."""

    def close(self) -> None:
        """End its thread."""


class SchedulerSide:
    """Lives in the scheduler's process and never waits for a node. Without ``lookups`` nothing is loaded."""

    def __init__(
        self,
        namespace: Heads,
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
        self._requests: dict[str, Tracked] = {}
        self._computed_under = ComputedUnder()
        self._loads: list[Load] = []

    def add(self, request: "Request") -> None:
        """A request has come."""
        head = self._namespace.head(request.lora_request)
        search = Search(self._lookup_timeout_s)
        self._requests[request.request_id] = Tracked(request, head, search, time.monotonic())

    def matched_tokens(self, request: "Request", computed_tokens: int) -> int | None:
        """Tokens that can be loaded behind the first ``computed_tokens``; None while that is looked up.

        vLLM asks again at each step until the request has blocks, perhaps with other ``computed_tokens``.
        """
        tracked = self._requests[request.request_id]
        first = computed_tokens // self._block_tokens
        tracked.awaited = self._pending_head(tracked)
        if tracked.awaited is not None:
            return None
        end: int | None = first
        # A load of which nothing arrived brings its request back here. What the nodes have cannot be loaded
        # then: it is computed and stored anew, or this would go on for ever.
        if tracked.loaded_after != request.num_preemptions:
            end = tracked.search.end(first, lambda left_s: self._look_up(tracked, first, left_s))
            tracked.awaited = tracked.search.running
        if end is None:
            return None
        tracked.first, tracked.stored_end = first, end
        return (end - first) * self._block_tokens

    def allocated(self, request: "Request", blocks: "KVCacheBlocks", external_tokens: int) -> None:
        """The request has blocks: load into them what the look-up found."""
        tracked = self._requests[request.request_id]
        first, count = tracked.first, external_tokens // self._block_tokens
        if tracked.hit_blocks is None:
            tracked.local_hit_blocks, tracked.hit_blocks = first, first + count
        tracked.search.count(self._tally)
        block_ids = blocks.get_block_ids()[0]
        head = tracked.known_head()
        # After its load vLLM calls this again, and what was loaded counts as computed.
        computed = block_ids[: max(first, request.num_computed_tokens // self._block_tokens)]
        tracked.is_shared = self._computed_under.is_all(head, computed)
        tracked.is_new = True
        if count and head is not None:
            tracked.loaded_after = request.num_preemptions
            wanted = self._names(tracked, head, first, first + count)
            targets = block_ids[first : first + count]
            self._computed_under.note(head, targets)
            before = block_ids[first - 1] if first else None
            self._loads.append(Load(request.request_id, wanted, targets, before))

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
            if tracked.is_new:
                self._check_tail(tracked, tokens)
            # A load that failed is computed again, and what the nodes have there is replaced.
            tracked.stored_end = min(tracked.stored_end, tokens // self._block_tokens)
            full = (tokens + output.num_scheduled_tokens[request_id]) // self._block_tokens
            full = min(full, len(tracked.request.block_hashes) // self._hashes_per_block)
            if full > tracked.stored_end:
                (block_ids,) = output.kv_connector_block_state.get_block_ids(request_id)
                metadata.stores += self._stores(tracked, full, block_ids)
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
        self._namespace.close()
        if self._lookups is not None:
            self._lookups.close()
        if self._reporter is not None:
            self._reporter.close()

    def renew(self) -> None:
        """The weights have changed: nothing stored until now may be loaded, nor be gone on from."""
        self._namespace.renew()
        for tracked in self._requests.values():
            tracked.restart(self._namespace.head(tracked.request.lora_request))

    def _check_tail(self, tracked: Tracked, computed_tokens: int) -> None:
        """A part of a block that vLLM had cached is copied to another block, of which nothing is noted."""
        tracked.is_new = False
        head = tracked.known_head()
        if head is not None and head.is_replaced and computed_tokens % self._block_tokens:
            tracked.is_shared = False

    def _pending_head(self, tracked: Tracked) -> "Future[Head | None] | None":
        """What the request waits for while its adapter is not known, but no longer than for a look-up."""
        is_patient = time.monotonic() - tracked.came_s < self._lookup_timeout_s
        return tracked.head if is_patient and not tracked.head.done() else None

    def _look_up(self, tracked: Tracked, first: int, left_s: float) -> "Future[Found] | None":
        head = tracked.known_head()
        if self._lookups is None or head is None or tracked.request.skip_reading_prefix_cache:
            return None
        wanted = self._names(tracked, head, first, len(self._hashes(tracked.request)))
        return self._lookups.start(wanted, left_s) if wanted else None

    def _await_lookup(self) -> None:
        """Wait a moment for what a request waits for: vLLM would ask again at once, and again."""
        waiting = [one.awaited for one in self._requests.values() if one.awaited is not None]
        if waiting:
            wait(waiting, IDLE_WAIT_S, FIRST_COMPLETED)

    def _stores(self, tracked: Tracked, end: int, block_ids: Sequence[int]) -> list[Store]:
        start, head = tracked.stored_end, tracked.known_head()
        if head is None or not tracked.is_shared:
            self._computed_under.note(None, block_ids[start:end])
            # As long as the request holds its blocks, they can be stored when its adapter is known.
            tracked.stored_end = start if not tracked.head.done() else end
            return []
        self._computed_under.note(head, block_ids[start:end])
        tracked.stored_end = end
        before = [None, *block_ids]
        wanted = self._names(tracked, head, start, end)
        return [Store(name, block_ids[at], before[at], head.adapter) for at, name in enumerate(wanted, start)]

    def _names(self, tracked: Tracked, head: Head, first: int, last: int) -> list[BlockName]:
        return names(head.name, self._hashes(tracked.request), self._root_depth, first, last)

    def _hashes(self, request: "Request") -> Sequence[bytes]:
        if self._hashes_per_block == 1:
            return request.block_hashes
        return request.block_hashes[self._hashes_per_block - 1 :: self._hashes_per_block]
