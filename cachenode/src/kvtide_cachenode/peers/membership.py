"""This node's place in the cluster: the topology it has adopted, what others say, what follows."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

from kvtide_cachenode.access.users import Secret
from kvtide_cachenode.cluster.redirect import View
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import MAX_EPOCH, Topology, reachable
from kvtide_cachenode.peers.link import PeerState
from kvtide_cachenode.peers.links import POLL_S, Peers
from kvtide_cachenode.peers.slot_mover import Moved, SlotMover
from kvtide_cachenode.process.background import every, until_done
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.store import Store


class OlderTopologyError(Exception):
    """A topology was refused: older than this node's, another of the same epoch, or too far ahead."""


@dataclass(slots=True)
class ClusterCounters:
    """What happened since the start."""

    forwarded: int = 0
    forwarded_bytes: int = 0
    forward_failures: int = 0
    redirected: int = 0


class Membership:
    """Until a topology is adopted the node is alone: it owns everything and `view` is None."""

    def __init__(
        self,
        store: Store,
        node_id: str,
        password: Secret | None,
        tls: ssl.SSLContext | None,
        failures: Failures,
    ) -> None:
        self.id = node_id
        self.view: View | None = None
        self.counters = ClusterCounters()
        self.moved = Moved()
        self.peers = Peers(node_id, password, tls)
        self._store = store
        self._failures = failures
        self._mover: SlotMover | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def epoch(self) -> int:
        """Of the adopted topology, 0 when there is none."""
        return 0 if self.view is None else self.view.topology.epoch

    @property
    def owns_slots(self) -> bool:
        """Whether slots are this node's by the adopted topology."""
        return self.view is not None and self.view.place in self.view.topology.owners

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the topology says that this node listens; None when it is no member."""
        if self.view is None or self.id not in self.view.topology.index:
            return None
        node = self.view.topology.nodes[self.view.place]
        return node.host, node.port

    async def landed(self, keys: Iterable[bytes]) -> None:
        """Wait until none of ``keys`` is on its way to another node; for as long as sending one takes."""
        for key in keys:
            while self._mover is not None and (flight := self._mover.flights.get(key)) is not None:
                await flight.wait()

    def flying(self, keys: Iterable[bytes]) -> bool:
        """Whether one of ``keys`` is just on its way to another node: its value must not change meanwhile."""
        return self._mover is not None and not self._mover.flights.keys().isdisjoint(keys)

    @property
    def emptied(self) -> bool:
        """Whether nothing is left here of slots that move away."""
        return self._mover is None or self._mover.done

    def state(self) -> PeerState:
        """What KVTIDE.PEER answers."""
        capacity_bytes, used_bytes = self._store.capacity_bytes, self._store.used_bytes
        for log in self._store.lower.values():
            stats = log.stats()
            capacity_bytes += stats.cap_bytes
            used_bytes += stats.used_bytes
        return PeerState(self.id, self.epoch, capacity_bytes, used_bytes)

    def adopt(self, topology: Topology) -> None:
        """Act by ``topology`` from now on; the same one again changes nothing.

        Entries of slots that this node does not hold any more are deleted, those of slots that move away are
        sent, and the others are asked for their epochs, all in the background.

        Raises:
            OlderTopologyError: it is not newer than the adopted one, or so much newer that it is a mistake.
        """
        if self.view is not None:
            if topology == self.view.topology:
                return
            if topology.epoch <= self.epoch:
                raise OlderTopologyError(
                    f"epoch {topology.epoch} is not newer than epoch {self.epoch}, which this node has"
                )
        if not reachable(topology.epoch, self.epoch):
            raise OlderTopologyError(
                f"epoch {topology.epoch} is too far beyond epoch {self.epoch}, which this node has: "
                f"the next one is {self.epoch + 1}"
            )
        self.peers.keep(topology.nodes)
        view = self.view = View(topology, self.id, dict(self.peers.heard))
        self._run("poll", self._poll)
        self._run("delete", partial(self._sweep, view))
        self._mover = None
        self._stop("move")
        if any(view.owns(slot) for part in topology.moves for slot in range(part.first, part.last + 1)):
            self._mover = SlotMover(self._store, view, self.peers, self.moved)
            self._run("move", self._mover.run)

    def hear(self, node_id: str, epoch: int) -> None:
        """A peer introduced itself at ``epoch``; one above all that there are says that it knows better."""
        if self.view is not None and node_id in self.view.topology.index and epoch <= MAX_EPOCH:
            self.peers.heard[node_id] = epoch
            self._look_around()

    async def stop(self) -> None:
        """End what runs in the background."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.peers.close()

    async def _poll(self) -> None:
        await self._ask_all()
        await every(POLL_S, "poll", self._failures, self._ask_all)

    async def _ask_all(self) -> None:
        if self.view is not None:
            topology = self.view.topology
            await self.peers.poll([node for node in topology.nodes if node.id != self.id], topology.epoch)
            self._look_around()

    def _look_around(self) -> None:
        if self.view is not None and self.peers.heard != self.view.heard:
            self.view = View(self.view.topology, self.id, dict(self.peers.heard))

    async def _sweep(self, view: View) -> None:
        """Delete what ``view`` gives to others."""
        for page in self._store.pages():
            for key in page:
                if not view.holds(key_slot(key)):
                    self._store.forget(key)
            await asyncio.sleep(0)
        if self._store.unsettled:
            await self._store.settle()

    def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` in the background, again when it fails, until it is done or another takes its name."""
        self._stop(name)
        self._tasks[name] = asyncio.get_running_loop().create_task(until_done(name, self._failures, work))

    def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
