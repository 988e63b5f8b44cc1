"""How the node shall be, and bringing it there: sizes, idle time-outs, topology."""

import asyncio
import math
from collections.abc import Callable
from functools import partial

from kvtide_cachenode.contract.messages import CapacityRequest, Desired, IdleTimeouts, ResizeProgress, Version
from kvtide_cachenode.contract.quantity import parse_quantity
from kvtide_cachenode.control.resize import Resizer
from kvtide_cachenode.control.state import StaleError, StateError, StateFile
from kvtide_cachenode.control.tiers import largest_dram_bytes, largest_ssd_bytes
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers.membership import OlderTopologyError
from kvtide_cachenode.process.background import until_done


class RefusedError(Exception):
    """A change was refused: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class DesiredState:
    """The newest document and what has become of it.

    A document is checked, kept on disk, and then applied, so that a restart takes up what was answered for.
    """

    def __init__(self, node: Node, file: StateFile) -> None:
        self._node = node
        self._file = file
        self._resizer = Resizer(node.store, node.failures)
        self._changing = asyncio.Lock()
        self._applying: asyncio.Task[None] | None = None
        self._ttl_s = IdleTimeouts()
        self.applied: Version | None = None

    @property
    def newest(self) -> Version | None:
        """The newest document this node has."""
        return _version(self._file.state.desired)

    @property
    def kept(self) -> bool:
        """Whether documents and the node's id outlive the process."""
        return self._file.lasting

    @property
    def ttl_s(self) -> IdleTimeouts | None:
        """The idle time-outs in force; None without an SSD tier."""
        return self._ttl_s if "ssd" in self._node.store.lower else None

    @property
    def resize(self) -> ResizeProgress | None:
        """The shrink under way, if any."""
        return self._resizer.progress

    def take_up(self) -> None:
        """Apply what an earlier process kept; the sizes hold since the stores were made."""
        document = self._file.state.desired
        if document is not None:
            self._apply(document)
            self.applied = _version(document)

    async def put(self, document: Desired) -> None:
        """Check, keep and apply a document; returns when it holds, or after `resize.ANSWER_S`.

        Raises:
            RefusedError: 400 where it is none for this node, 409 where it is older or too large.
        """
        dram_bytes, ssd_bytes = self._sizes(document.capacity or CapacityRequest())
        if document.ttl_s is not None and "ssd" not in self._node.store.lower:
            raise RefusedError(400, "ttl_s is for an SSD tier, and this node has none: start it with --ssd")
        async with self._changing:
            try:
                self._file.fence(document)
                self._apply(document)
                await self._file.keep(document, dram_bytes, ssd_bytes)
            except (StaleError, OlderTopologyError) as error:
                raise RefusedError(409, str(error)) from None
            except StateError as error:
                raise RefusedError(500, str(error)) from None
            resizing = asyncio.create_task(self._resizer.set_capacity(dram_bytes, ssd_bytes))
            self._watch(document)
        await resizing

    async def resized(self, wanted: CapacityRequest) -> None:
        """Keep and apply sizes given by hand; returns when they hold, or after `resize.ANSWER_S`.

        Raises:
            RefusedError: 400 where a size is none, 409 where it is too large or a newer one came meanwhile.
        """
        dram_bytes, ssd_bytes = self._sizes(wanted)
        if dram_bytes is None and ssd_bytes is None:
            raise RefusedError(400, 'the body must be {"dram": bytes, "ssd": bytes}, or one of them')
        async with self._changing:
            try:
                await self._file.keep(None, dram_bytes, ssd_bytes)
            except StateError as error:
                raise RefusedError(500, str(error)) from None
            resizing = asyncio.create_task(self._resizer.set_capacity(dram_bytes, ssd_bytes))
        if not await resizing:
            newer = self._node.store.capacity_bytes
            raise RefusedError(409, f"a newer request set the capacity to {newer} bytes meanwhile")

    async def stop(self) -> None:
        """Leave everything as it is."""
        if self._applying is not None:
            self._applying.cancel()
        await self._resizer.stop()

    def _apply(self, document: Desired) -> None:
        """What takes no time: topology and time-outs.

        Raises:
            OlderTopologyError: see `Membership.adopt`.
        """
        if document.topology is not None:
            self._node.cluster.adopt(document.topology)
        if document.ttl_s is not None:
            self._node.store.set_ttl(*_time_outs(document.ttl_s))
            self._ttl_s = document.ttl_s

    def _watch(self, document: Desired) -> None:
        if self._applying is not None:
            self._applying.cancel()
        work = partial(self._applied_when_resized, document)
        self._applying = asyncio.create_task(until_done("desired", self._node.failures, work))

    async def _applied_when_resized(self, document: Desired) -> None:
        await asyncio.sleep(0)  # the resize begins
        await self._resizer.settled()
        self.applied = _version(document)

    def _sizes(self, wanted: CapacityRequest) -> tuple[int | None, int | None]:
        store = self._node.store
        dram_bytes = _size("dram", wanted.dram, lambda: largest_dram_bytes(store), "this node's memory")
        if wanted.ssd is None:
            return dram_bytes, None
        log = store.lower.get("ssd")
        if log is None:
            raise RefusedError(400, "this node has no SSD tier: start it with --ssd and --ssd-path")
        return dram_bytes, _size("ssd", wanted.ssd, lambda: largest_ssd_bytes(log), "the SSD's file system")


def _size(tier: str, wanted: int | str | None, largest: Callable[[], int], where: str) -> int | None:
    if wanted is None:
        return None
    try:
        size = parse_quantity(wanted) if isinstance(wanted, str) else wanted
    except ValueError as error:
        raise RefusedError(400, f"{tier}: {error}") from None
    if size < 0:
        raise RefusedError(400, f"{tier}: a capacity of {size} bytes is below zero")
    if size > (most := largest()):
        raise RefusedError(409, f"{tier}: a capacity of {size} bytes is above the {most} that fit {where}")
    return size


def _time_outs(given: IdleTimeouts) -> tuple[dict[str, float], float]:
    return given.groups, math.inf if given.other is None else given.other


def _version(document: Desired | None) -> Version | None:
    return None if document is None else Version(document.term, document.generation)
