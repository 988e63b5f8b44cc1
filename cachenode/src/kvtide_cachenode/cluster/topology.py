"""The cluster as one document: nodes, which of them owns each slot, and the slots on their way to another.

Every node gets the same document, in an order that `handover` decides; a higher `epoch` replaces a lower one.
The dataclasses are the document's form: `msgspec.convert(json, Topology)` reads and validates it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

from kvtide_cachenode.cluster.slots import SLOTS

# A slot's owner is one byte, an index into `nodes`; the last value means that nobody owns it.
MAX_NODES: Final = 255
NOBODY: Final = 255
NODE_ID_DIGITS: Final = 40
MAX_DEADLINE_S: Final = 86_400
# Far from any that counting leads to, so that every epoch has one above it, and exact in every JSON reader.
MAX_EPOCH: Final = 2**53 - 1
MAX_DRAM_BYTES: Final = 2**63 - 1


@dataclass(frozen=True)
class Node:
    """A member: ``id`` (40 hexadecimal digits, as redis clients expect), where it listens, its DRAM in bytes.

    A node of no DRAM has no share of the slots: that is how one is emptied.
    """

    id: str
    host: str
    port: int
    dram_bytes: int

    def __post_init__(self) -> None:
        if len(self.id) != NODE_ID_DIGITS or set(self.id) - set("0123456789abcdef"):
            raise ValueError(f"node id {self.id!r} is not {NODE_ID_DIGITS} lower-case hexadecimal digits")
        if not self.host or set(self.host) & set(" ,@\r\n"):
            raise ValueError(f"host {self.host!r} of node {self.id} is no host name or address")
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port} of node {self.id} is not between 1 and 65535")
        if self.dram_bytes < 0:
            raise ValueError(f"dram_bytes of node {self.id} is negative; use 0 for a node without a share")
        if self.dram_bytes > MAX_DRAM_BYTES:
            raise ValueError(f"dram_bytes of node {self.id} is above {MAX_DRAM_BYTES}")


@dataclass(frozen=True)
class SlotRange:
    """Slots ``first`` to ``last``, both included, belong to ``node`` (in a move: go there)."""

    first: int
    last: int
    node: str

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < SLOTS:
            raise ValueError(
                f"slots {self.first}-{self.last} are not an ascending range within 0-{SLOTS - 1}"
            )


@dataclass(frozen=True)
class Topology:
    """Who owns what at ``epoch``. ``moves`` are slots whose owner migrates them to another node.

    Raises ValueError, in one sentence, unless every slot has exactly one owner, every name is a node's, and
    a moving slot moves once and to a node that does not own it. ``deadline_s`` is how long a source may take
    to send its entries of moving slots; it drops what is left then.
    """

    epoch: int
    nodes: tuple[Node, ...]
    slots: tuple[SlotRange, ...]
    moves: tuple[SlotRange, ...] = ()
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"epoch {self.epoch} is below 1, the first")
        if self.epoch > MAX_EPOCH:
            raise ValueError(f"epoch {self.epoch} is above {MAX_EPOCH}, the last")
        if not 0 <= self.deadline_s <= MAX_DEADLINE_S:
            raise ValueError(f"deadline_s {self.deadline_s} is not between 0 and {MAX_DEADLINE_S}")
        if not 0 < len(self.nodes) <= MAX_NODES:
            raise ValueError(f"{len(self.nodes)} nodes are not between 1 and {MAX_NODES}")
        _all_different("node id", (node.id for node in self.nodes))
        _all_different("address", (f"{node.host}:{node.port}" for node in self.nodes))
        ownerless = self.owners.find(NOBODY)
        if ownerless >= 0:
            raise ValueError(f"slot {ownerless} has no owner; every slot 0-{SLOTS - 1} needs exactly one")
        for part in self.moves:
            at = self.owners.find(self.targets[part.first], part.first, part.last + 1)
            if at >= 0:
                raise ValueError(f"slot {at} moves to {part.node}, which owns it already")

    @cached_property
    def index(self) -> dict[str, int]:
        """Node id to its place in ``nodes``."""
        return {node.id: at for at, node in enumerate(self.nodes)}

    @cached_property
    def owners(self) -> bytes:
        """Of each slot, the place in ``nodes`` of its owner."""
        return self._table(self.slots)

    @cached_property
    def targets(self) -> bytes:
        """Of each slot, the place in ``nodes`` of the node that it moves to, or `NOBODY`."""
        return self._table(self.moves)

    def owner(self, slot: int) -> Node:
        """The node that owns ``slot``."""
        return self.nodes[self.owners[slot]]

    def target(self, slot: int) -> Node | None:
        """The node that ``slot`` moves to, None when it stays."""
        at = self.targets[slot]
        return None if at == NOBODY else self.nodes[at]

    def ranges_of(self, node_id: str) -> list[tuple[int, int]]:
        """The slots that the node owns, as ascending (first, last)."""
        return [(part.first, part.last) for part in self.slots if part.node == node_id]

    def _table(self, ranges: Iterable[SlotRange]) -> bytes:
        table = bytearray([NOBODY]) * SLOTS
        for part in ranges:
            if part.node not in self.index:
                raise ValueError(f"slots {part.first}-{part.last} name {part.node!r}, which is no node")
            stop = part.last + 1
            taken = table[part.first : stop].strip(bytes([NOBODY]))
            if taken:
                raise ValueError(f"slots {part.first}-{part.last} of {part.node} overlap another range")
            table[part.first : stop] = bytes([self.index[part.node]]) * (stop - part.first)
        return bytes(table)


def ranges(table: Sequence[int], nodes: Sequence[Node]) -> tuple[SlotRange, ...]:
    """The fewest ranges that say the same as a table of 16384 places in ``nodes`` (`NOBODY` says nothing)."""
    return tuple(
        SlotRange(first, last, nodes[place].id) for first, last, place in _runs(table) if place != NOBODY
    )


def _runs(table: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    for place, run in groupby(range(len(table)), table.__getitem__):
        slots = list(run)
        yield slots[0], slots[-1], place


def _all_different(what: str, values: Iterable[str]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value} is there twice; each node needs its own")
        seen.add(value)
