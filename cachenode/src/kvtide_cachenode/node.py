"""What one node consists of, shared by the data port and the admin port."""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from secrets import token_hex
from typing import TYPE_CHECKING

from msgspec import structs

from kvtide_cachenode.access.reloading import Loaded, Watched
from kvtide_cachenode.access.users import Users
from kvtide_cachenode.access_trace.inference import Inference
from kvtide_cachenode.access_trace.ring import Inferred, TraceRing
from kvtide_cachenode.client_memory import ClientMemory
from kvtide_cachenode.peers.membership import Membership
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.process.latency import Histogram
from kvtide_cachenode.process.rounds import Rounds
from kvtide_cachenode.process.turns import Turns
from kvtide_cachenode.store import Store

if TYPE_CHECKING:
    from kvtide_cachenode.serve.session import Session

VERSION = version("kvtide")


@dataclass(slots=True)
class Node:
    """The store, the trace and the connections of one serving process.

    ``users`` is who may do what, and whose password peers are asked with. ``block_tokens`` is how many tokens
    an inferred trace counts per block; ``listen`` is the data port's ``HOST:PORT`` once it is bound;
    ``watched`` are the files that are read again when they change. ``stopping`` is for good: nothing that
    ends afterwards makes the node ``ready`` again. ``ahead_s`` is how far Unix time is ahead of the monotonic
    clock, as the machine's clock stood at the start: setting that ends no idle time, and makes none longer.
    """

    store: Store
    block_tokens: int
    boot_id: str = field(default_factory=lambda: token_hex(8))
    started_s: float = field(default_factory=time.monotonic)
    ahead_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    ready: bool = False
    stopping: bool = False
    listen: str | None = None
    sessions: dict[int, "Session"] = field(default_factory=dict)
    connections_total: int = 0
    connections_refused: int = 0
    commands_total: int = 0
    connections_evicted: int = 0
    accept_pauses: int = 0
    auth_failures: int = 0
    stalled_total: int = 0
    failures: Failures = field(default_factory=Failures)
    turns: Turns = field(default_factory=Turns)
    rounds: Rounds = field(default_factory=Rounds)
    dram_latency: Histogram = field(default_factory=Histogram)
    later_latency: Histogram = field(default_factory=Histogram)
    users: Users = field(default_factory=Users)
    peer_tls: ssl.SSLContext | None = None
    watched: Sequence[Watched[Loaded]] = ()
    node_id: str = field(default_factory=lambda: token_hex(20))
    trace: TraceRing = field(init=False)
    inference: Inference = field(init=False)
    cluster: Membership = field(init=False)
    clients: ClientMemory = field(init=False)

    def __post_init__(self) -> None:
        self.trace = TraceRing(self.boot_id)
        self.clients = ClientMemory(self.store)
        self.inference = Inference(self._infer)
        self.cluster = Membership(self.store, self.node_id, self.users.password, self.peer_tls, self.failures)

    def uptime_s(self) -> float:
        """Seconds since this process began."""
        return time.monotonic() - self.started_s

    def _infer(self, request: Inferred) -> None:
        set_ms = round(1e3 * (time.time() - time.monotonic() - self.ahead_s))
        if set_ms:  # lines tell the machine's time, as those of other nodes do
            stored_ms = None if request.stored_ms is None else max(request.stored_ms + set_ms, 0)
            began_ms = max(request.began_ms + set_ms, 0)
            request = structs.replace(request, began_ms=began_ms, stored_ms=stored_ms)
        self.trace.append_inferred(request, self.block_tokens)
