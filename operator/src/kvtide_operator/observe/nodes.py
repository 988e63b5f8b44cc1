"""Reads the nodes: their state and what their traces say since the last look."""

import asyncio
from collections.abc import Callable, Mapping

from kvtide_cachenode.contract.client import NodeClient, NodeError
from kvtide_cachenode.contract.messages import NodeStatus
from kvtide_operator.observe.page import Page
from kvtide_operator.world.nodes import NodeState, SilentNode, SsdState, World

MAX_PAGES_PER_LOOK = 64
"""Pages of trace read from one node in one look; the rest waits for the next look."""


def node_state(name: str, status: NodeStatus) -> NodeState:
    """What a node answered to GET /v1/status, as the operator's own words have it."""
    dram, ssd, cluster = status.tiers["dram"], status.tiers.get("ssd"), status.cluster
    resize = status.resize if status.resize is not None and status.resize.tier == "dram" else None
    return NodeState(
        name=name,
        capacity_bytes=dram.capacity_bytes,
        used_bytes=dram.used_bytes,
        resident_bytes=dram.resident_bytes,
        entries=dram.entries,
        max_bytes=dram.max_bytes,
        ssd=None if ssd is None else SsdState(ssd.capacity_bytes, ssd.used_bytes, ssd.max_bytes),
        ttl_s=status.ttl_s,
        resizing_s=None if resize is None else resize.elapsed_s,
        node_id="" if cluster is None else cluster.node_id,
        port=0 if status.listen is None else int(status.listen.rpartition(":")[2]),
        topology=None if cluster is None else cluster.topology,
        emptied=cluster is None or cluster.emptied,
        desired=status.desired,
        applied=status.applied,
    )


class NodeObserver:
    """Looks at all nodes of one cache.

    Args:
        clients: asks for the admin client of every node there is now, by the node's name.
    """

    def __init__(self, clients: Callable[[], Mapping[str, NodeClient]]) -> None:
        self._clients = clients
        self._cursor: dict[str, str] = {}

    async def look(self, now_s: float) -> tuple[World, tuple[Page, ...]]:
        """The nodes as they are now, and the trace lines they wrote since the last look."""
        pages: list[Page] = []
        clients = self._clients()
        seen = await asyncio.gather(*(self._look_at(name, clients[name], pages) for name in clients))
        world = World(
            at_s=now_s,
            nodes=tuple(node for node in seen if isinstance(node, NodeState)),
            silent=tuple(node for node in seen if isinstance(node, SilentNode)),
        )
        return world, tuple(pages)

    def begin_anew(self) -> None:
        """Read all that the nodes still have of their traces in the next look."""
        self._cursor.clear()

    async def _look_at(self, name: str, client: NodeClient, pages: list[Page]) -> NodeState | SilentNode:
        try:
            status = await client.status()
            await self._read_trace(name, client, pages)
        except NodeError as error:
            return SilentNode(name, str(error))
        return node_state(name, status)

    async def _read_trace(self, name: str, client: NodeClient, pages: list[Page]) -> None:
        for _ in range(MAX_PAGES_PER_LOOK):
            page = await client.trace(self._cursor.get(name))
            if page.lines or page.gap:
                pages.append(Page(page.lines, page.gap))
            self._cursor[name] = page.next
            if not page.lines:
                return
