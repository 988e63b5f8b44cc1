"""Reads the nodes: their state and what their traces say since the last look."""

import asyncio
from collections.abc import Mapping

from kvtide_cachenode.client import NodeClient, NodeError
from kvtide_operator.observe.history import TraceHistory
from kvtide_operator.world.nodes import NodeState, SilentNode, World

MAX_PAGES_PER_LOOK = 64
"""Pages of trace read from one node in one look; the rest waits for the next look."""


class NodeObserver:
    """Looks at all nodes of one cache."""

    def __init__(self, clients: Mapping[str, NodeClient], history: TraceHistory) -> None:
        self._clients = clients
        self._history = history
        self._cursor: dict[str, str] = {}

    async def look(self, now_s: float) -> World:
        """The nodes as they are now; new trace lines go into the history."""
        seen = await asyncio.gather(*(self._look_at(name, now_s) for name in self._clients))
        return World(
            at_s=now_s,
            nodes=tuple(node for node in seen if isinstance(node, NodeState)),
            silent=tuple(node for node in seen if isinstance(node, SilentNode)),
        )

    async def _look_at(self, name: str, now_s: float) -> NodeState | SilentNode:
        client = self._clients[name]
        try:
            status = await client.status()
            await self._read_trace(name, client, now_s)
        except NodeError as error:
            return SilentNode(name, str(error))
        dram = status.tiers["dram"]
        return NodeState(
            name=name,
            capacity_bytes=dram.capacity_bytes,
            used_bytes=dram.used_bytes,
            resident_bytes=dram.resident_bytes,
            entries=dram.entries,
            max_bytes=dram.max_bytes,
        )

    async def _read_trace(self, name: str, client: NodeClient, now_s: float) -> None:
        for _ in range(MAX_PAGES_PER_LOOK):
            page = await client.trace(self._cursor.get(name))
            self._history.add(page.lines, now_s, page.gap)
            self._cursor[name] = page.next
            if not page.lines:
                return
