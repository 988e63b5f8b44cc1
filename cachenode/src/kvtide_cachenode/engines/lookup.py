"""How much of a chain of blocks the nodes hold: EXISTS in a thread, with a deadline."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from kvtide_cachenode.engines.block_keys import BlockName
from kvtide_cachenode.engines.node_set import NodeSet, redirected_to
from kvtide_cachenode.engines.resp_client import Address, NodeError, Refused, encode

FIRST_CHUNK_BLOCKS: Final = 16  # a look-up asks for so many blocks, then for twice as many, …
MAX_CHUNK_BLOCKS: Final = 1024  # … up to this, and stops at the first that is missing
THREADS: Final = 4
ASKING: Final = encode(b"ASKING")


class Lookups:
    """Runs look-ups. A request's look-up is one future; whoever is tired of waiting drops it."""

    def __init__(self, nodes: NodeSet, ranks: Sequence[bytes], timeout_s: float) -> None:
        self._nodes = nodes
        self._ranks = ranks
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, "kvtide-lookup")

    def start(self, names: Sequence[BlockName]) -> "Future[int]":
        """Count the leading blocks of ``names`` that are there for every rank; never fails."""
        return self._threads.submit(self._count, names, time.monotonic() + self._timeout_s)

    def close(self) -> None:
        """End the threads; look-ups under way end by their deadlines."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, names: Sequence[BlockName], deadline_s: float) -> int:
        start, size = 0, FIRST_CHUNK_BLOCKS
        # A look-up that waited for a thread too long is not its node's fault.
        while start < len(names) and time.monotonic() < deadline_s:
            chunk = names[start : start + size]
            there = self._present([name.key(rank) for name in chunk for rank in self._ranks], deadline_s)
            for at in range(len(chunk)):
                if not all(there[at * len(self._ranks) : (at + 1) * len(self._ranks)]):
                    return start + at
            start += len(chunk)
            size = min(2 * size, MAX_CHUNK_BLOCKS)
        return start

    def _present(self, keys: list[bytes], deadline_s: float) -> list[bool]:
        there = [False] * len(keys)
        elsewhere = self._ask(dict(enumerate(map(self._nodes.owner, keys))), keys, there, deadline_s, b"")
        if elsewhere:
            self._nodes.map_is_old()
            self._ask(elsewhere, keys, there, deadline_s, ASKING)
        return there

    def _ask(
        self,
        where: dict[int, Address],
        keys: Sequence[bytes],
        there: list[bool],
        deadline_s: float,
        before: bytes,
    ) -> dict[int, Address]:
        """Note in ``there`` which keys exist; the answer says which another node must be asked for."""
        elsewhere: dict[int, Address] = {}
        for address in dict.fromkeys(where.values()):
            if not self._nodes.is_up(address):
                continue
            mine = [at for at, owner in where.items() if owner == address]
            try:
                with self._nodes.connection(address, deadline_s) as connection:
                    questions = b"".join(before + encode(b"EXISTS", keys[at]) for at in mine)
                    connection.send([questions], deadline_s)
                    for at in mine:
                        if before:
                            connection.read(deadline_s)
                        reply = connection.read(deadline_s)
                        there[at] = reply == 1
                        target = redirected_to(reply) if isinstance(reply, Refused) else None
                        if target is not None:
                            elsewhere[at] = target
            except NodeError:
                continue
        return elsewhere
