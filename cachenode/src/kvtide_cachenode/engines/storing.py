"""Blocks from an engine to nodes: copied at once, sent by threads, dropped rather than waited for."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Generic

from kvtide_cachenode.engines.container import HEADER_BYTES, Qualities, header
from kvtide_cachenode.engines.lookup import ASKING
from kvtide_cachenode.engines.node_connection import Address, NodeError
from kvtide_cachenode.engines.node_set import NodeSet, redirected_to
from kvtide_cachenode.engines.staging import SlotT, noting_accidents
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.wire.resp_client import Refused, encode_set

STORE_TIMEOUT_S: Final = 5.0
FINISH_S: Final = 2.0  # for stores under way when the engine ends


class Storer(Generic[SlotT]):
    """Stores blocks, best effort: what finds no free slot, or whose node is down, is dropped and counted."""

    def __init__(
        self, nodes: NodeSet, make_slot: Callable[[], SlotT], slots: int, threads: int, tally: Tally
    ) -> None:
        self._nodes = nodes
        self._make_slot = make_slot
        self._slots = self._unmade = slots
        self._free: queue.SimpleQueue[SlotT] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(threads, "kvtide-store")
        self._tally = tally
        self._look_at = noting_accidents(tally)

    def offer(
        self,
        key: bytes,
        lineage: float,
        gather: Callable[[SlotT], None],
        is_still_right: Callable[[], bool] | None = None,
    ) -> bool:
        """Copy a block with ``gather`` and send it later; False when it is dropped.

        ``is_still_right`` is asked by the thread that sends, when the block has been computed.
        """
        if not self._nodes.is_up(self._nodes.owner(key)):
            self._tally.add("store_dropped_node_down")
            return False
        slot = self._take()
        if slot is None:
            self._tally.add("store_dropped_buffer_full")
            return False
        began_s = time.monotonic()
        try:
            gather(slot)
            sent = self._threads.submit(self._run, key, lineage, slot, is_still_right)
        except BaseException:
            self._free.put(slot)
            raise
        self._tally.add("gather_seconds", time.monotonic() - began_s)
        sent.add_done_callback(self._look_at)
        return True

    def close(self) -> None:
        """Give stores under way `FINISH_S`, then end the threads."""
        deadline_s = time.monotonic() + FINISH_S
        with suppress(queue.Empty):
            for _ in range(self._slots - self._unmade):
                self._free.get(timeout=max(0.0, deadline_s - time.monotonic()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> SlotT | None:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            if not self._unmade:
                return None
            slot = self._make_slot()
            self._unmade -= 1
            return slot

    def _run(
        self, key: bytes, lineage: float, slot: SlotT, is_still_right: Callable[[], bool] | None
    ) -> None:
        try:
            if is_still_right is not None and not is_still_right():
                self._tally.add("store_dropped_adapter_changed")
                return
            began_s = time.monotonic()
            memory = slot.memory
            memory[:HEADER_BYTES] = header(key, memory[HEADER_BYTES:], Qualities(1.0, lineage))
            refused = self._send(self._nodes.owner(key), key, memory, b"")
            target = refused and redirected_to(refused)
            if target:
                self._nodes.map_is_old()
                refused = self._send(target, key, memory, ASKING)
            if refused is not None:
                self._tally.add("store_refused")
                return
            self._tally.add("store_blocks")
            self._tally.add("store_bytes", len(memory))
            self._tally.add("store_seconds", time.monotonic() - began_s)
        except NodeError:
            self._tally.add("store_failed")
        finally:
            self._free.put(slot)

    def _send(self, address: Address, key: bytes, memory: memoryview, before: bytes) -> Refused | None:
        deadline_s = time.monotonic() + STORE_TIMEOUT_S
        with self._nodes.connection(address, deadline_s) as connection:
            connection.send([before + encode_set(key, len(memory)), memory, b"\r\n"], deadline_s)
            if before:
                connection.read(deadline_s)
            reply = connection.read(deadline_s)
            return reply if isinstance(reply, Refused) else None
