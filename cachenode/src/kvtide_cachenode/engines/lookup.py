"""How much of a chain of blocks the nodes hold: EXISTS in a thread, with a deadline."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from kvtide_cachenode.engines.block_keys import BlockName
from kvtide_cachenode.engines.node_connection import Address, NodeError
from kvtide_cachenode.engines.node_set import NodeSet, redirected_to
from kvtide_cachenode.wire.resp_client import Refused, encode

FIRST_CHUNK_BLOCKS: Final = 16  # a look-up asks for so many blocks, then for twice as many, …
MAX_CHUNK_BLOCKS: Final = 1024  # … up to this, and stops at the first that is missing
THREADS: Final = 4
ASKING: Final = encode(b"ASKING")

logger = logging.getLogger("vllm.kvtide")

# Why a look-up found no more: there is no more, nobody said so in time, or the node that knows is down.
End = Literal["complete", "timeout", "node_down"]


@dataclass(frozen=True, slots=True)
class Found:
    """Leading ``blocks`` that are there, why there are no more, and how long that took."""

    blocks: int
    end: End
    took_s: float


class Lookups:
    """Runs look-ups. A request's look-up is one future; whoever is tired of waiting drops it."""

    def __init__(self, nodes: NodeSet, ranks: Sequence[bytes]) -> None:
        self._nodes = nodes
        self._ranks = ranks
        self._threads = ThreadPoolExecutor(THREADS, "kvtide-lookup")

    def start(self, names: Sequence[BlockName], timeout_s: float) -> "Future[Found]":
        """Count the leading blocks of ``names`` that are there for every rank; never fails."""
        return self._threads.submit(self._run, names, time.monotonic(), timeout_s)

    def close(self) -> None:
        """End the threads; look-ups under way end by their deadlines."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, names: Sequence[BlockName], began_s: float, timeout_s: float) -> Found:
        try:
            blocks, end = self._count(names, began_s + timeout_s)
        except Exception:
            # Nobody could do anything about it: the engine's scheduler takes what is found.
            logger.exception("kvtide: a look-up broke off")
            blocks, end = 0, "node_down"
        return Found(blocks, end, time.monotonic() - began_s)

    def _count(self, names: Sequence[BlockName], deadline_s: float) -> tuple[int, End]:
        start, size = 0, FIRST_CHUNK_BLOCKS
        while start < len(names):
            # A look-up that waited for a thread too long is not its node's fault.
            if time.monotonic() >= deadline_s:
                return start, "timeout"
            chunk = names[start : start + size]
            said = self._present([name.key(rank) for name in chunk for rank in self._ranks], deadline_s)
            for at in range(len(chunk)):
                parts = said[at * len(self._ranks) : (at + 1) * len(self._ranks)]
                if not all(parts):
                    return start + at, _end(parts, deadline_s)
            start += len(chunk)
            size = min(2 * size, MAX_CHUNK_BLOCKS)
        return start, "complete"

    def _present(self, keys: list[bytes], deadline_s: float) -> list[bool | None]:
        """Which keys exist; None where nobody said."""
        said: list[bool | None] = [None] * len(keys)
        elsewhere = self._ask(dict(enumerate(map(self._nodes.owner, keys))), keys, said, deadline_s, b"")
        if elsewhere:
            self._nodes.map_is_old()
            self._ask(elsewhere, keys, said, deadline_s, ASKING)
        return said

    def _ask(
        self,
        where: dict[int, Address],
        keys: Sequence[bytes],
        said: list[bool | None],
        deadline_s: float,
        before: bytes,
    ) -> dict[int, Address]:
        """Note in ``said`` which keys exist; the answer says which another node must be asked for."""
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
                        if not isinstance(reply, Refused):
                            said[at] = reply == 1
                        elif (target := redirected_to(reply)) is not None:
                            elsewhere[at] = target
            except NodeError:
                continue
        return elsewhere


def _end(parts: Sequence[bool | None], deadline_s: float) -> End:
    if False in parts:
        return "complete"
    return "timeout" if time.monotonic() >= deadline_s else "node_down"
