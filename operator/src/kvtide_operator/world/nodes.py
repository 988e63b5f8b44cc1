"""The cache nodes as they are, not as they were asked to be."""

from dataclasses import dataclass

from kvtide_cachenode.cluster.topology import Topology
from kvtide_cachenode.contract.messages import IdleTimeouts, Version


@dataclass(frozen=True, slots=True)
class SsdState:
    """The SSD tier of a node; ``max_bytes`` is what its file system has room for now."""

    capacity_bytes: int
    used_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node that answered.

    Attributes:
        capacity_bytes: of its DRAM tier, as are the sizes below it.
        max_bytes: the largest capacity that its memory limit allows now.
        ssd: None where it has no SSD tier.
        ttl_s: the idle time-outs in force on its SSD; None where it has none.
        resizing_s: how long a shrink of its DRAM is under way; None when there is none.
        node_id: by which the topology knows it; another one after a restart that kept nothing.
        port: where it serves clients.
        topology: the one it has adopted; None: it is alone and owns everything.
        emptied: no entry is left of slots that move away.
        desired: the newest document that it has, None when it has none.
        applied: the newest one that holds in full.
    """

    name: str
    capacity_bytes: int
    used_bytes: int
    resident_bytes: int
    entries: int
    max_bytes: int
    ssd: SsdState | None = None
    ttl_s: IdleTimeouts | None = None
    resizing_s: float | None = None
    node_id: str = ""
    port: int = 0
    topology: Topology | None = None
    emptied: bool = True
    desired: Version | None = None
    applied: Version | None = None


@dataclass(frozen=True, slots=True)
class SilentNode:
    """A node that did not answer, and why. Its size is unknown, which is not zero."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class World:
    """All nodes of a cache at one moment.

    Attributes:
        at_s: when this was seen, seconds since the epoch on the loop's clock.
    """

    at_s: float
    nodes: tuple[NodeState, ...]
    silent: tuple[SilentNode, ...] = ()

    @property
    def capacity_bytes(self) -> int:
        """What the nodes that answered may hold together."""
        return sum(node.capacity_bytes for node in self.nodes)

    @property
    def used_bytes(self) -> int:
        """What they do hold."""
        return sum(node.used_bytes for node in self.nodes)

    @property
    def entries(self) -> int:
        """How many entries they hold."""
        return sum(node.entries for node in self.nodes)
