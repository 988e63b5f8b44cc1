"""What one node consists of, shared by the data port and the admin port."""

import time
from dataclasses import dataclass, field
from hmac import compare_digest
from importlib.metadata import version
from secrets import token_hex
from typing import TYPE_CHECKING

from kvtide_cachenode.access_trace import TraceRing
from kvtide_cachenode.inference import Parents
from kvtide_cachenode.store import Store

if TYPE_CHECKING:
    from kvtide_cachenode.session import Session

VERSION = version("kvtide")


@dataclass(slots=True)
class Node:
    """The store, the trace and the connections of one serving process.

    ``password`` is what AUTH asks for, None when anyone may come in. ``block_tokens`` is how many tokens an
    inferred trace counts per block.
    """

    store: Store
    block_tokens: int
    password: bytes | None = None
    boot_id: str = field(default_factory=lambda: token_hex(8))
    started_s: float = field(default_factory=time.monotonic)
    ready: bool = False
    sessions: dict[int, "Session"] = field(default_factory=dict)
    connections_total: int = 0
    connections_refused: int = 0
    commands_total: int = 0
    parents: Parents = field(default_factory=Parents)
    trace: TraceRing = field(init=False)

    def __post_init__(self) -> None:
        self.trace = TraceRing(self.boot_id)

    def uptime_s(self) -> float:
        """Seconds since this process began."""
        return time.monotonic() - self.started_s

    def password_is(self, given: bytes) -> bool:
        """Whether AUTH accepts ``given``; the time it takes does not tell how much of it was right."""
        return self.password is not None and compare_digest(self.password, given)

    def infer(self, timestamp_ms: int, block_ids: list[int], hit_blocks: int) -> None:
        """Append a request that was put together from single accesses."""
        self.trace.append_inferred(timestamp_ms, block_ids, hit_blocks, self.block_tokens)
