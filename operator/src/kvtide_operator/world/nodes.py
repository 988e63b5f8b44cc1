"""The cache nodes as they are, not as they were asked to be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node that answered."""

    name: str
    capacity_bytes: int
    used_bytes: int
    resident_bytes: int
    entries: int
    max_bytes: int


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
