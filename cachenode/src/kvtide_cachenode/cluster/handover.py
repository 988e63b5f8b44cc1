"""Slots move from one topology to the next: which node gets which document, when, and when entries move.

    step │ who     │ gets     │ and then
    ─────┼─────────┼──────────┼─────────────────────────────────────────────────────────────────────────────
    1    │ targets │ `moving` │ import: serve what is asked for after ASKING, and by peers
    2    │ sources │ `moving` │ migrate: serve what is here, ASK or forward to the target what is not
    3    │ others  │ `moving` │ have the epoch of all, so redirects are possible meanwhile
    4    │ sources │          │ send entries, hottest first; at the deadline drop what is left
    5    │ targets │ `moved`  │ own the slots
    6    │ sources │ `moved`  │ let go: delete what they do not own any more
    7    │ others  │ `moved`  │ learn

After step 4 a source has no entry of a moving slot and takes none, so whoever still asks it is sent on. The
machine is level-triggered: `next_actions` looks at what every node reports and says what is missing, so a
crash at any point, of a node or of whoever drives this, resumes where the nodes are. A node that is target
and source counts as a target, which comes first.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from kvtide_cachenode.cluster.topology import NOBODY, Node, Topology, ranges

Role = Literal["targets", "sources", "others"]
Document = Literal["moving", "moved"]

# Documents go out in this order; entries move between the two.
ORDER: Final[tuple[tuple[Role, Document], ...]] = (
    ("targets", "moving"),
    ("sources", "moving"),
    ("others", "moving"),
    ("targets", "moved"),
    ("sources", "moved"),
    ("others", "moved"),
)


@dataclass(frozen=True, slots=True)
class Send:
    """Give ``topology`` to ``node`` as its desired one."""

    node: Node
    topology: Topology


@dataclass(frozen=True, slots=True)
class MoveEntries:
    """Let ``source`` send its entries of the moving slots to their targets, and drop the rest in the end."""

    source: Node


@dataclass(frozen=True)
class Handover:
    """To ``moved`` by way of ``moving``, an epoch earlier.

    The members of both documents are those of either: a new node is there before it gets a slot, an emptied
    one until it has let go. `plan_handover` makes one.
    """

    moving: Topology
    moved: Topology

    @cached_property
    def roles(self) -> dict[Role, tuple[Node, ...]]:
        """Nodes that get slots, nodes that only give some, and all others."""
        targets = set(self.moving.targets) - {NOBODY}
        sources = {self.moving.index[node.id] for node in self.givers} - targets
        roles: dict[Role, list[Node]] = {"targets": [], "sources": [], "others": []}
        for at, node in enumerate(self.moving.nodes):
            roles["targets" if at in targets else "sources" if at in sources else "others"].append(node)
        return {role: tuple(members) for role, members in roles.items()}

    @cached_property
    def givers(self) -> tuple[Node, ...]:
        """Nodes whose entries move, also those that get slots at the same time."""
        pairs = zip(self.moving.owners, self.moving.targets, strict=True)
        places = {owner for owner, target in pairs if target != NOBODY}
        return tuple(node for at, node in enumerate(self.moving.nodes) if at in places)

    def next_actions(
        self, epochs: Mapping[str, int], emptied: Collection[str]
    ) -> tuple[Send, ...] | tuple[MoveEntries, ...]:
        """What to do now, all at once; nothing when the handover is complete.

        ``epochs`` are those of the topologies that nodes report as applied (by node id; a silent node is
        missing and waited for), ``emptied`` the nodes that report no entry left in slots they migrate.
        """
        full = [
            node
            for node in self.givers
            if node.id not in emptied and epochs.get(node.id, 0) < self.moved.epoch
        ]
        for role, document in ORDER:
            topology = self.moving if document == "moving" else self.moved
            if document == "moved" and full:
                return tuple(MoveEntries(node) for node in full)
            late = [node for node in self.roles[role] if epochs.get(node.id, 0) < topology.epoch]
            if late:
                return tuple(Send(node, topology) for node in late)
        return ()

    def given_up(self) -> Topology:
        """The document that ends a handover whose target is lost: the owners of before, at a newer epoch.

        Sources get it first. What had already moved is a miss from then on. Only before any node owns by
        ``moved``: afterwards the way out is a new handover.
        """
        return replace(self.moving, epoch=self.moved.epoch + 1, moves=())


def plan_handover(before: Topology, after: Topology) -> Handover:
    """The way from ``before`` to the owners and nodes of ``after``. Nodes are told apart by their id.

    Where a node is in both, its address and size are those of ``after``. Raises ValueError when ``before``
    has moves under way: that handover ends first.
    """
    if before.moves:
        raise ValueError(
            f"slots are still moving at epoch {before.epoch}; finish or give up that handover first"
        )
    gone = tuple(node for node in before.nodes if node.id not in after.index)
    nodes = after.nodes + gone
    targets = bytearray([NOBODY]) * len(before.owners)
    for slot, (owner, heir) in enumerate(zip(before.owners, after.owners, strict=True)):
        if before.nodes[owner].id != after.nodes[heir].id:
            targets[slot] = heir  # ``after`` comes first in ``nodes``: the places are the same
    moving = Topology(before.epoch + 1, nodes, before.slots, ranges(targets, nodes), after.deadline_s)
    return Handover(moving, Topology(before.epoch + 2, nodes, after.slots))


def ongoing(moving: Topology) -> Handover:
    """The handover that ``moving``, a topology with moves under way, is the first document of."""
    pairs = zip(moving.owners, moving.targets, strict=True)
    table = bytes(owner if target == NOBODY else target for owner, target in pairs)
    moved = replace(moving, epoch=moving.epoch + 1, slots=ranges(table, moving.nodes), moves=())
    return Handover(moving, moved)
