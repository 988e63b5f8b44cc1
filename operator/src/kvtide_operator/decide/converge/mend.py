"""A topology whose nodes are not what it says any more: some are lost, some have another address.

Nothing can be moved from a lost node, so its slots go to others at once; what is on its way between others
goes on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kvtide_cachenode.cluster.shares import slot_counts
from kvtide_cachenode.cluster.topology import NOBODY, Node, Topology, ranges


def mended(old: Topology, live: Mapping[str, Node], heirs: Sequence[Node]) -> Topology | None:
    """The topology of the next epochs in which every node is one of ``live``; None without anybody to own.

    A slot of a lost node goes to the node it was moving to, otherwise to the one of ``heirs`` that lacks most
    of its share. A slot that was moving to a lost node stays.

    Args:
        live: every node that answers, by id, where it is now.
        heirs: those of them that may own slots.
    """
    nodes = _members(old, live, heirs)
    place = {node.id: at for at, node in enumerate(nodes)}
    now = bytes(place.get(node.id, NOBODY) for node in old.nodes).ljust(256, bytes([NOBODY]))
    owners, targets = bytearray(old.owners.translate(now)), bytearray(old.targets.translate(now))
    for slot, owner in enumerate(owners) if NOBODY in owners else ():
        if owner == NOBODY:
            owners[slot], targets[slot] = targets[slot], NOBODY
    if NOBODY in owners and not _dealt(owners, nodes, heirs, place):
        return None
    # A node may have adopted the document that ends the moves of ``old``, an epoch later, and be lost.
    epoch = old.epoch + (2 if old.moves else 1)
    return replace(old, epoch=epoch, nodes=nodes, slots=ranges(owners, nodes), moves=ranges(targets, nodes))


def _members(old: Topology, live: Mapping[str, Node], heirs: Sequence[Node]) -> tuple[Node, ...]:
    kept = [live[node.id] for node in old.nodes if node.id in live]
    ids = {node.id for node in kept}
    return (*kept, *(node for node in heirs if node.id not in ids))


def _dealt(owners: bytearray, nodes: Sequence[Node], heirs: Sequence[Node], place: Mapping[str, int]) -> bool:
    """Give every ownerless slot to the heir that lacks most; whether there was one to give to."""
    weights = [node.dram_bytes for node in heirs]
    if not sum(weights):
        return False
    owned = Counter(owners)
    counts = slot_counts(weights, [owned[place[node.id]] for node in heirs])
    lacking = {
        place[node.id]: count - owned[place[node.id]] for node, count in zip(heirs, counts, strict=True)
    }
    takers = sorted(lacking, key=lambda at: -lacking[at])
    for slot, owner in enumerate(owners):
        if owner == NOBODY:
            while lacking[takers[0]] <= 0 and len(takers) > 1:
                del takers[0]
            owners[slot] = takers[0]
            lacking[takers[0]] -= 1
    assert len(nodes) < NOBODY, "a topology has fewer nodes than a byte has values"
    return True
