"""DRAM sizes to slots: each node's share is proportional to its DRAM, and as few slots move as possible."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from kvtide_cachenode.cluster.slots import SLOTS
from kvtide_cachenode.cluster.topology import NOBODY, Node, Topology, ranges


def slot_counts(dram_bytes: Sequence[int], owned: Sequence[int]) -> list[int]:
    """Slots for each node: its exact share rounded down or up, 16384 in all.

    Where rounding leaves a choice, nodes that own more than their rounded-down share now (``owned``) are
    rounded up first, so that the fewest slots move; among equals the largest remainder goes first.
    """
    total = sum(dram_bytes)
    if total <= 0:
        raise ValueError("no node has DRAM, so nobody can own the slots; give at least one node dram_bytes")
    counts = [SLOTS * size // total for size in dram_bytes]
    remainders = [SLOTS * size % total for size in dram_bytes]
    fractional = [at for at, remainder in enumerate(remainders) if remainder]
    fractional.sort(key=lambda at: (owned[at] <= counts[at], -remainders[at], at))
    for at in fractional[: SLOTS - sum(counts)]:
        counts[at] += 1
    return counts


def first_topology(nodes: Sequence[Node]) -> Topology:
    """A new cluster at epoch 1: one range of slots for each node, in the order of ``nodes``."""
    return Topology(1, tuple(nodes), ranges(_deal(bytearray([NOBODY]) * SLOTS, nodes), nodes))


def rebalanced(topology: Topology, nodes: Sequence[Node]) -> Topology:
    """The next epoch, in which ``nodes`` own slots in proportion to their DRAM, with no moves under way.

    Nodes that are gone lose all slots; every other node gives up or receives, never both.
    """
    place = {node.id: at for at, node in enumerate(nodes)}
    kept = [place.get(topology.nodes[owner].id, NOBODY) for owner in topology.owners]
    table = _deal(bytearray(kept), nodes)
    return replace(
        topology, epoch=topology.epoch + 1, nodes=tuple(nodes), slots=ranges(table, nodes), moves=()
    )


def _deal(table: bytearray, nodes: Sequence[Node]) -> bytearray:
    """Give every surplus or ownerless slot to a node below its count; givers keep their lowest slots."""
    owned = Counter(table)
    counts = slot_counts([node.dram_bytes for node in nodes], [owned[at] for at in range(len(nodes))])
    surplus = {at: owned[at] - count for at, count in enumerate(counts)}
    for slot in reversed(range(SLOTS)):
        at = table[slot]
        if at != NOBODY and surplus[at] > 0:
            table[slot] = NOBODY
            surplus[at] -= 1
    wanting = deque(at for at, more in surplus.items() for _ in range(-more))
    for slot in range(SLOTS):
        if table[slot] == NOBODY:
            table[slot] = wanting.popleft()
    return table
