"""Who owns which slots: what each node is to be told of it now, from what all of them report.

newest document   │ and                                    │ then
──────────────────┼────────────────────────────────────────┼───────────────────────────────────────────
none              │ all members are here                   │ the first one goes to all
names who is gone │ nobody is awaited                      │ a mended one
with moves        │ no source has begun, and the shares to │ the owners of before
                  │ be are others by now                   │
with moves        │                                        │ its handover goes on
without           │ somebody has an older one              │ it goes to them
without           │ shares are not as they shall be, nobody│ a handover to what they shall be begins
                  │ is awaited and nobody has yet to grow  │
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from kvtide_cachenode.cluster.handover import Handover, MoveEntries, ongoing, plan_handover
from kvtide_cachenode.cluster.shares import first_topology, rebalanced, slot_counts
from kvtide_cachenode.cluster.topology import MAX_DEADLINE_S, Node, Topology
from kvtide_operator.decide.converge.claims import lacks_ssd
from kvtide_operator.decide.converge.mend import mended
from kvtide_operator.decide.converge.view import Seat, View
from kvtide_operator.world.nodes import NodeState

MOVE_S: Final = 60.0
MOVE_BYTES_PER_S: Final = 50e6
"""Entries that move are given a minute and the time that a slow network (0.4 Gbit/s) takes for them."""
SHOWN: Final = 3


_handover = lru_cache(maxsize=64)(ongoing)  # as long as slots move, every pass sees the same document


@dataclass(frozen=True, slots=True)
class Slots:
    """Topologies to be told, by the pod's name; what is waited for; and the newest topology.

    ``at_rest``: every node has the newest topology, nothing moves, and shares are as they shall be.
    """

    tell: Mapping[str, Topology] = field(default_factory=dict)
    waiting: str = ""
    newest: Topology | None = None
    at_rest: bool = False

    def owns(self, node_id: str) -> bool:
        """Whether a node has slots, or may get some."""
        if self.newest is None:
            return False
        return any(part.node == node_id for part in (*self.newest.slots, *self.newest.moves))


def next_slots(view: View) -> Slots:
    """The documents of this pass."""
    here = {run[1].node_id: seat for seat in view.seats if (run := seat.running) is not None}
    known = [(seat, seat.node.topology) for seat in here.values() if seat.node and seat.node.topology]
    if not known:
        return _first(view)
    top = max(topology.epoch for _, topology in known)
    candidates = {topology for _, topology in known if topology.epoch == top}
    newest = candidates.pop() if len(candidates) == 1 else min(candidates, key=repr)
    wrong = len(candidates) > 1 or _outdated(newest, here)
    if wrong:
        if view.awaited:
            return Slots(newest=newest)
        better = mended(newest, {key: _node(view, seat) for key, seat in here.items()}, _heirs(view))
        if better is None:
            return Slots(waiting="no node is there that could own slots", newest=newest)
        newest = better
    handover = _under_way(newest, [topology for _, topology in known])
    epochs = {key: _epoch(seat) for key, seat in here.items()}
    if handover is not None and newest.moves and _is_overtaken(view, handover, here):
        newest, handover = handover.given_up(), None
    if handover is not None:
        slots = _go_on(handover, newest, here, epochs)
        if slots is not None:
            return slots
        newest = handover.moved
    late = {
        seat.name: newest for key, seat in here.items() if key in newest.index and epochs[key] < newest.epoch
    }
    if late:
        return Slots(late, f"tells {', '.join(sorted(late))} who owns which slots", newest)
    return _towards_shares(view, newest, here, epochs)


def _first(view: View) -> Slots:
    heirs = _heirs(view)
    if view.awaited or not heirs:
        return Slots()
    topology = first_topology(heirs)
    tell = {seat.name: topology for seat in view.seats if seat.node and seat.node.node_id in topology.index}
    return Slots(tell, "forms the cluster", topology)


def _towards_shares(
    view: View, newest: Topology, here: Mapping[str, Seat], epochs: Mapping[str, int]
) -> Slots:
    """Begin to move slots, if there is something to move and this is the time."""
    heirs = _heirs(view)
    if not heirs:
        return Slots(newest=newest)
    if _balanced(newest, heirs):
        return Slots(newest=newest, at_rest=True)
    if view.awaited:
        return Slots(newest=newest)
    growing = _growing(view)
    if growing:
        return Slots(waiting=growing, newest=newest)
    used_bytes = max(_held_bytes(run[1]) for seat in here.values() if (run := seat.running))
    deadline_s = min(MOVE_S + used_bytes / MOVE_BYTES_PER_S, MAX_DEADLINE_S)
    after = replace(rebalanced(newest, heirs), deadline_s=round(deadline_s, 3))
    handover = _handover(plan_handover(newest, after).moving)
    slots = _go_on(handover, newest, here, epochs)
    assert slots is not None, "a handover that begins has something to do"
    return slots


def _go_on(
    handover: Handover, newest: Topology, here: Mapping[str, Seat], epochs: Mapping[str, int]
) -> Slots | None:
    """What a handover needs now; None when it is complete."""
    emptied = {key for key, seat in here.items() if seat.node and seat.node.emptied}
    actions = handover.next_actions(epochs, emptied)
    if not actions:
        return None
    tell: dict[str, Topology] = {}
    moving: list[str] = []
    for action in actions:
        if isinstance(action, MoveEntries):
            moving.append(here[action.source.id].name if action.source.id in here else action.source.host)
        elif action.node.id in here:
            tell[here[action.node.id].name] = action.topology
    what = f"{', '.join(sorted(moving)[:SHOWN])} sends its entries" if moving else "moves slots"
    return Slots(tell, f"{what} (epoch {handover.moving.epoch})", newest)


def _is_overtaken(view: View, handover: Handover, here: Mapping[str, Seat]) -> bool:
    """Whether no source has begun, and what was to be is not what shall be any more, or not yet."""
    sources = [here[node.id].node for node in handover.givers if node.id in here]
    if any(source and source.topology and source.topology.moves for source in sources):
        return False
    heirs = _heirs(view)
    return bool(heirs) and (bool(_growing(view)) or not _balanced(handover.moved, heirs))


def _under_way(newest: Topology, known: list[Topology]) -> Handover | None:
    """The handover that ``newest`` is the first or the second document of, where somebody is not through."""
    if newest.moves:
        return _handover(newest)
    for topology in known:
        if topology.epoch == newest.epoch - 1 and topology.moves:
            handover = _handover(topology)
            if handover.moved.slots == newest.slots and handover.moved.nodes == newest.nodes:
                return handover
    return None


def _outdated(newest: Topology, here: Mapping[str, Seat]) -> bool:
    """Whether it names a node that does not answer, or where it is not any more."""
    for node in newest.nodes:
        run = here[node.id].running if node.id in here else None
        if run is None or (node.host, node.port) != (run[0].ip, run[1].port):
            return True
    return False


def _balanced(topology: Topology, heirs: list[Node]) -> bool:
    owned: dict[str, int] = dict.fromkeys(topology.index, 0)
    for part in topology.slots:
        owned[part.node] += part.last - part.first + 1
    mine = [owned.pop(node.id, 0) for node in heirs]
    return not any(owned.values()) and slot_counts([node.dram_bytes for node in heirs], mine) == mine


def _heirs(view: View) -> list[Node]:
    """Who shall own slots, with the DRAM that their share follows."""
    return [_node(view, seat) for seat in view.seats if seat.running and view.weight(seat)]


def _node(view: View, seat: Seat) -> Node:
    assert seat.running is not None, "only a node that answers is a member"
    pod, node = seat.running
    assert pod.ip is not None, "a node that answers has an address"
    return Node(node.node_id, pod.ip, node.port, view.weight(seat))


def _epoch(seat: Seat) -> int:
    return seat.node.topology.epoch if seat.node and seat.node.topology else 0


def _held_bytes(node: NodeState) -> int:
    """What a node may have to send: both tiers."""
    return node.used_bytes + (0 if node.ssd is None else node.ssd.used_bytes)


def _growing(view: View) -> str:
    """Which members are waited for, in a sentence; nothing when all have the size that they shall have."""
    growing = [seat.name for seat in view.members if _has_to_grow(view, seat)]
    return f"moves slots when {', '.join(growing[:SHOWN])} has grown" if growing else ""


def _has_to_grow(view: View, seat: Seat) -> bool:
    if seat.node is None or not view.weight(seat):
        return False
    return seat.node.capacity_bytes < view.dram_bytes(seat) or lacks_ssd(view, seat)
