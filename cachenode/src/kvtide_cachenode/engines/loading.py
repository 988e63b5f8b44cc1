"""Blocks from nodes into an engine: threads, deadlines, staging memory. Knows bytes, not tensors.

A block arrives in a slot of the thread that fetches it, is checked there and only then copied to its place,
and only while the job is open; a job is over when it is closed and no copy is under way. So bytes that come
late never reach a block that the engine uses for something else by then.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic

from kvtide_cachenode.engines.container import HEADER_BYTES, ContainerError, read
from kvtide_cachenode.engines.lookup import ASKING
from kvtide_cachenode.engines.node_connection import Address, NodeError
from kvtide_cachenode.engines.node_set import NodeSet, redirected_to
from kvtide_cachenode.engines.staging import SlotT, noting_accidents
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.wire.resp_client import Refused, encode

MAX_BATCH_BLOCKS: Final = 8  # GETs sent at once on one connection
COPY_S: Final = 0.001  # a block's copy takes about so long
# An engine with nothing to compute asks for ended loads without a pause, on a core that transfers need. It
# waits for so long instead, which is what a request that arrives meanwhile may lose.
IDLE_WAIT_S: Final = 0.005


class LoadJob:
    """The blocks that one request waits for: ``(key, block id)`` each.

    ``missing`` holds the ids not yet in place; ``lowest_quality`` what the others inherit to blocks that
    are computed on them, by block id.
    """

    def __init__(self, request_id: str, blocks: Sequence[tuple[bytes, int]], deadline_s: float) -> None:
        self.request_id = request_id
        self.blocks = blocks
        self.deadline_s = deadline_s
        self.started_s = time.monotonic()
        self.lock = threading.Lock()
        self.open = True
        self.missing = {block_id for _, block_id in blocks}
        self.batches = 0
        self.copying = 0
        self.at_rest = threading.Event()
        self.ended_s = 0.0
        self.lowest_quality: dict[int, float] = {}

    def begin_copy(self) -> bool:
        """Whether a block may be copied to its place now; `end_copy` follows."""
        with self.lock:
            self.copying += self.open
            return self.open

    def arrived(self, block_id: int, lowest_quality: float) -> None:
        """A block is in its place."""
        with self.lock:
            self.missing.discard(block_id)
            self.lowest_quality[block_id] = lowest_quality

    def end_copy(self) -> None:
        """No longer copying."""
        with self.lock:
            self.copying -= 1

    def end_batch(self) -> None:
        """A thread has done what it could."""
        with self.lock:
            self.batches -= 1
            self.ended_s = time.monotonic()
            if not self.batches:
                self.at_rest.set()

    def is_over(self, now_s: float) -> bool:
        """Close the job if nothing is left to do or the time is up; whether it is closed and at rest."""
        with self.lock:
            if not self.batches or now_s >= self.deadline_s:
                self.open = False
            return not self.open and not self.copying


class Loader(Generic[SlotT]):
    """Fetches blocks. What one job holds is bounded by the engine's own blocks, staging by the threads."""

    def __init__(
        self,
        nodes: NodeSet,
        make_slot: Callable[[], SlotT],
        scatter: Callable[[SlotT, int], None],
        threads: int,
        tally: Tally,
    ) -> None:
        self._nodes = nodes
        self._make_slot = make_slot
        self._scatter = scatter
        self._thread_count = threads
        self._threads = ThreadPoolExecutor(threads, "kvtide-load")
        self._mine = threading.local()
        self._tally = tally
        self._look_at = noting_accidents(tally)
        self._jobs: list[LoadJob] = []
        self._rested = threading.Event()

    def start(self, job: LoadJob) -> None:
        """Begin to load; `ended` says when the job is over."""
        by_owner: dict[Address, list[tuple[bytes, int]]] = {}
        for block in job.blocks:
            by_owner.setdefault(self._nodes.owner(block[0]), []).append(block)
        batches = [
            (address, batch)
            for address, blocks in by_owner.items()
            if self._nodes.is_up(address)
            for batch in _batches(blocks, self._thread_count)
        ]
        job.batches = len(batches)
        self._jobs.append(job)
        if not batches:
            self._rested.set()
        for address, batch in batches:
            self._threads.submit(self._run, job, address, batch).add_done_callback(self._look_at)

    def ended(self, patience_s: float = 0.0) -> list[LoadJob]:
        """Jobs that are over since the last call: complete, given up by all batches, or past the deadline.

        While jobs are under way, the call waits up to ``patience_s`` for one to come to rest, and no longer
        than to the first deadline.
        """
        if patience_s and self._jobs:
            left_s = min(job.deadline_s for job in self._jobs) - time.monotonic()
            self._rested.wait(max(0.0, min(patience_s, left_s)))
        self._rested.clear()
        now_s = time.monotonic()
        over = [job for job in self._jobs if job.is_over(now_s)]
        for job in over:
            self._end(job)
        return over

    def wait(self, job: LoadJob) -> None:
        """Wait until ``job`` is over, for callers that have nothing else to do."""
        if job.batches:
            job.at_rest.wait(max(0.0, job.deadline_s - time.monotonic()))
        while not job.is_over(time.monotonic()):
            job.at_rest.wait(COPY_S)
        self._end(job)

    def close(self) -> None:
        """End the threads; transfers under way end by their deadlines."""
        for job in self._jobs:
            job.open = False
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end(self, job: LoadJob) -> None:
        now_s = time.monotonic()
        self._jobs.remove(job)
        self._tally.add("load_wait_seconds", now_s - (job.ended_s or now_s))
        self._tally.add("load_seconds", now_s - job.started_s)
        self._tally.add("loads")
        self._tally.add("load_blocks", len(job.blocks) - len(job.missing))
        self._tally.add("load_failed_blocks", len(job.missing))

    def _run(self, job: LoadJob, address: Address, blocks: Sequence[tuple[bytes, int]]) -> None:
        try:
            elsewhere = self._fetch(job, address, blocks, b"")
            for target, redirected in elsewhere.items():
                self._nodes.map_is_old()
                self._fetch(job, target, redirected, ASKING)
        except NodeError:
            self._tally.add("node_errors")
        finally:
            job.end_batch()
            self._rested.set()

    def _fetch(
        self, job: LoadJob, address: Address, blocks: Sequence[tuple[bytes, int]], before: bytes
    ) -> dict[Address, list[tuple[bytes, int]]]:
        """Load what the node has; the answer says which blocks another node must be asked for."""
        elsewhere: dict[Address, list[tuple[bytes, int]]] = {}
        slot: SlotT = self._mine.__dict__.setdefault("slot", None) or self._make_slot()
        self._mine.slot = slot
        if not job.open or time.monotonic() >= job.deadline_s:
            return elsewhere  # it waited in the queue for too long, which is not this node's fault
        with self._nodes.connection(address, job.deadline_s) as connection:
            connection.send([before + encode(b"GET", key) for key, _ in blocks], job.deadline_s)
            for key, block_id in blocks:
                if before:
                    connection.read(job.deadline_s)
                began_s = time.monotonic()
                length = connection.read_value(slot.memory, job.deadline_s)
                self._tally.add("transfer_seconds", time.monotonic() - began_s)
                if isinstance(length, Refused):
                    target = redirected_to(length)
                    if target is not None:
                        elsewhere.setdefault(target, []).append((key, block_id))
                elif length is not None:
                    self._place(job, key, block_id, slot, length)
        return elsewhere

    def _place(self, job: LoadJob, key: bytes, block_id: int, slot: SlotT, length: int) -> None:
        began_s = time.monotonic()
        try:
            qualities = read(key, slot.memory[:length], len(slot.memory) - HEADER_BYTES)
        except ContainerError:
            self._tally.add("load_damaged_blocks")
            return
        checked_s = time.monotonic()
        if not job.begin_copy():
            return
        try:
            self._scatter(slot, block_id)
            job.arrived(block_id, qualities.lowest)
        finally:
            job.end_copy()
        self._tally.add("check_seconds", checked_s - began_s)
        self._tally.add("scatter_seconds", time.monotonic() - checked_s)
        self._tally.add("load_bytes", length)


def _batches(blocks: Sequence[tuple[bytes, int]], threads: int) -> Iterator[Sequence[tuple[bytes, int]]]:
    size = max(1, min(MAX_BATCH_BLOCKS, -(-len(blocks) // threads)))
    for start in range(0, len(blocks), size):
        yield blocks[start : start + size]
