"""A source of a slot move: sends its entries of the moving slots to their targets, hottest first.

An entry stays here, and is served here, until its target has it; whoever wants to change it while it is on
its way waits (`flights`), so that at no time two nodes answer for one key with different values. What the
target already has is newer and stays (`SET … NX`).
A target gets no more than it can keep beside equally hot entries of its own: sending the rest would only push
those out. At the deadline, what is left is dropped: whoever asks for it is sent to the target, and misses.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

from kvtide_cachenode.cluster.redirect import View
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import NOBODY, Node
from kvtide_cachenode.peers.link import PeerLink, PeerLostError
from kvtide_cachenode.peers.links import Peers
from kvtide_cachenode.store import CapacityError, Entry, Store
from kvtide_cachenode.wire.resp_client import Refused, Reply

# Entries on their way at once to one target, each on a link of its own, so that reading, sending and storing
# overlap.
LINKS_PER_TARGET: Final = 3
ANSWER_S: Final = 10.0
RETRY_S: Final = 0.2
PAGE_KEYS: Final = 1000


@dataclass(slots=True)
class Moved:
    """What became of entries of slots that moved away, since the start."""

    sent: int = 0
    sent_bytes: int = 0
    left: int = 0
    left_bytes: int = 0


class SlotMover:
    """Empties this node of the slots that ``view``'s topology moves away from it."""

    def __init__(self, store: Store, view: View, peers: Peers, moved: Moved) -> None:
        self.done = False
        self.flights: dict[bytes, asyncio.Event] = {}
        self._store = store
        self._view = view
        self._peers = peers
        self._moved = moved
        self._deadline_s = time.monotonic() + view.topology.deadline_s
        # Sent, but unanswered when the link was lost: the target may have these values.
        self._doubtful: dict[bytes, Entry] = {}

    async def run(self) -> None:
        """Send what is worth sending, then drop what is left; returns when nothing is left."""
        queues = await self._queues()
        async with asyncio.TaskGroup() as senders:
            for target, queue in queues.items():
                budget = await self._budget_bytes(target, queue)
                chosen = self._hottest(queue, budget)
                for _ in range(LINKS_PER_TARGET):
                    senders.create_task(self._send_all(target, chosen))
        for keys in (await self._queues()).values():
            for page in _pages(keys):
                self._drop(page)
                await asyncio.sleep(0)
        if self._store.unsettled:
            await self._store.settle()
        self.done = True

    async def _queues(self) -> dict[Node, list[bytes]]:
        """Keys of moving slots by target, hottest first."""
        topology, place = self._view.topology, self._view.place
        found: dict[int, list[bytes]] = {}
        below = (list(filter(self._store.below, page)) for page in self._store.pages())
        for page in chain(self._store.hottest(), below):
            for key in page:
                slot = key_slot(key)
                target = topology.targets[slot]
                if target != NOBODY and topology.owners[slot] == place:
                    found.setdefault(target, []).append(key)
            await asyncio.sleep(0)
        return {topology.nodes[at]: queue for at, queue in found.items()}

    async def _budget_bytes(self, target: Node, keys: list[bytes]) -> float:
        """How much of ``keys`` the target can keep: of what both hold, what fits its tier."""
        state = await self._peers.ask_state(target, self._view.topology.epoch)
        if state is None:
            return float("inf")
        moving_bytes = 0
        for page in _pages(keys):
            moving_bytes += sum(map(self._bytes_of, page))
            await asyncio.sleep(0)
        both_bytes = state.used_bytes + moving_bytes
        if both_bytes <= state.capacity_bytes:
            return float("inf")  # not the sum: an entry may be overwritten by a larger one until it is sent
        return moving_bytes * state.capacity_bytes / both_bytes

    def _drop(self, keys: list[bytes]) -> None:
        for key in keys:
            length = self._store.length_of(key)
            if length is not None:
                self._moved.left += 1
                self._moved.left_bytes += length
                self._store.forget(key)

    def _hottest(self, keys: list[bytes], budget_bytes: float) -> Iterator[bytes]:
        for key in keys:
            budget_bytes -= self._bytes_of(key)
            if budget_bytes < 0:
                return
            yield key

    def _bytes_of(self, key: bytes) -> int:
        entry = self._store.peek(key)
        return (self._store.length_of(key) or 0) if entry is None else entry.charge

    async def _entry(self, key: bytes) -> Entry | None:
        """What is to be sent of a key; None when it is gone, or too large to be brought up from the SSD."""
        if self._store.below(key):
            with suppress(CapacityError):
                await self._store.fetch(key)
        return self._store.peek(key)

    async def _send_all(self, target: Node, keys: Iterator[bytes]) -> None:
        """Send keys until there are no more, the target takes no more, or the deadline."""
        unsent: deque[bytes] = deque()
        address = target.host, target.port
        while time.monotonic() < self._deadline_s:
            try:
                async with self._peers.link(address, self._view.topology.epoch) as link:
                    while time.monotonic() < self._deadline_s:
                        key = unsent.popleft() if unsent else next(keys, None)
                        if key is None:
                            return
                        unsent.append(key)
                        async with asyncio.timeout(ANSWER_S):
                            if not await self._send(link, key):
                                return
                        unsent.clear()
            except (PeerLostError, TimeoutError):
                await asyncio.sleep(RETRY_S)

    async def _send(self, link: PeerLink, key: bytes) -> bool:
        """Move one entry; False when the target has no room for it."""
        self.flights[key] = asyncio.Event()
        try:
            return await self._fly(link, key)
        finally:
            self.flights.pop(key).set()

    async def _fly(self, link: PeerLink, key: bytes) -> bool:
        entry, doubtful = await self._entry(key), self._doubtful.get(key)
        if entry is None:
            if doubtful is not None:  # deleted here since then
                link.send(b"DEL", key)
                await link.reply()
            return True
        self._doubtful[key] = entry
        options = (b"NX",) if doubtful is None or doubtful is entry else ()
        answer = await self._deliver(link, entry, options)
        del self._doubtful[key]
        if isinstance(answer, Refused):
            return False
        self._moved.sent += 1
        self._moved.sent_bytes += entry.length
        self._store.forget(key)
        return True

    async def _deliver(self, link: PeerLink, entry: Entry, options: tuple[bytes, ...]) -> Reply:
        value = self._store.encoded(entry)
        if isinstance(value, bytes):
            link.send(b"SET", entry.key, value, *options)
            return await link.reply()
        try:
            link.send(b"SET", entry.key, value, *options)
            return await link.reply()
        except BaseException:
            link.close()
            await link.gone.wait()  # until then the value may still be on its way out
            raise
        finally:
            self._store.unpin(entry)


def _pages(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Some keys at a time: what is done between two turns of the loop."""
    return (keys[first : first + PAGE_KEYS] for first in range(0, len(keys), PAGE_KEYS))
