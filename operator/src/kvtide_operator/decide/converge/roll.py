"""Restarts: only for another pod template or another volume, one node at a time, emptied first where its
restart would lose what it holds.

A node is emptied into a surge, one more replica for as long as it takes. Then its restarted pod is the empty
seat that the next one is emptied into, and in the end the surge is emptied and goes.
"""

from kvtide_operator.decide.converge.claims import is_of_other_class, is_replaced, lacks_volume
from kvtide_operator.decide.converge.replicas import claims_differ
from kvtide_operator.decide.converge.topology import Slots
from kvtide_operator.decide.converge.view import Seat, View
from kvtide_operator.decide.steps import DeleteClaim, DeletePod, Step

TEMPLATE = "its pod template has changed"
SMALLER_VOLUME = "its volume is larger than needed"
OTHER_CLASS = "its volume is of another class"
NEVER_RAN = "it does not run, and was made from an older template"


def with_roll(view: View) -> View:
    """The view with a surge and the seat to empty, if one is to be restarted that way.

    One that is empty already goes first: it is the one of the pass before.
    """
    to_empty = [seat for seat in view.seats[: view.sizes.replicas] if _loses(view, seat)]
    if not to_empty:
        return view
    surged = view.with_roll(view.sizes.replicas + 1, None)
    if any(seat.node is None for seat in surged.members):
        return surged
    chosen = min(to_empty, key=lambda seat: (_owns_slots(seat), _turn(view, seat)))
    return view.with_roll(surged.wanted, chosen.ordinal)


def restarts(view: View, slots: Slots) -> tuple[tuple[Step, ...], str]:
    """The pod to delete now, if this is the time, and what is waited for."""
    stuck = [seat for seat in view.members if _is_stuck(view, seat)]
    if stuck and view.world.stateful_set is not None:
        return tuple(DeletePod(seat.name, seat.pod.uid, NEVER_RAN) for seat in stuck if seat.pod), ""
    stale = [seat for seat in view.seats[: view.sizes.replicas] if is_stale(view, seat)]
    if not stale:
        return (), ""
    names = ", ".join(seat.name for seat in stale)
    if not _is_quiet(view, slots):
        return (), f"restarts {names} when all nodes are ready and nothing moves"
    # Slots are at rest, so a seat that was to be emptied is.
    seat = min(stale, key=lambda one: _turn(view, one)) if view.rolled is None else view.seats[view.rolled]
    return _restart(view, seat), f"restarts {seat.name}"


def is_stale(view: View, seat: Seat) -> bool:
    """Whether a node that answers needs another pod or another volume."""
    if seat.running is None:
        return False
    return seat.running[0].template_hash != view.template_hash or is_replaced(view, seat)


def _loses(view: View, seat: Seat) -> bool:
    """Whether a stale node would lose entries by its restart: it, or its successor, has no SSD or another."""
    if not is_stale(view, seat) or seat.node is None:
        return False
    return seat.node.ssd is None or view.sizes.claim_bytes is None or is_replaced(view, seat)


def _turn(view: View, seat: Seat) -> int:
    """The highest ordinal first, as a StatefulSet does it.

    Of pods that shall have a volume the lowest: the StatefulSet's controller tries to give them one in the
    order of their numbers, cannot, and makes no pod behind the first where it failed.
    """
    return seat.ordinal if lacks_volume(view, seat) else -seat.ordinal


def _owns_slots(seat: Seat) -> bool:
    if seat.node is None or seat.node.topology is None:
        return True
    return bool(seat.node.topology.ranges_of(seat.node.node_id))


def _is_stuck(view: View, seat: Seat) -> bool:
    """Whether a pod does not run and never will as it should: it holds nothing."""
    stateful_set, pod = view.world.stateful_set, seat.pod
    if pod is None or not seat.absent or stateful_set is None or stateful_set.deleting:
        return False
    if stateful_set.template_hash != view.template_hash:
        return False
    too_large = pod.wanted_memory_bytes > stateful_set.memory_bytes and view.lost(seat)
    return too_large or pod.template_hash != view.template_hash


def _is_quiet(view: View, slots: Slots) -> bool:
    """Whether all nodes are ready, slots at rest, and the set makes pods from the right template."""
    stateful_set = view.world.stateful_set
    return (
        stateful_set is not None
        and not stateful_set.deleting
        and stateful_set.template_hash == view.template_hash
        and not claims_differ(view, stateful_set)
        and slots.at_rest
        and all(seat.running is not None and seat.running[0].ready for seat in view.seats)
    )


def _restart(view: View, seat: Seat) -> tuple[Step, ...]:
    assert seat.pod is not None, "a node that answers has a pod"
    if not is_replaced(view, seat) or seat.claim is None:
        return (DeletePod(seat.name, seat.pod.uid, TEMPLATE),)
    if not seat.claim.deleting:  # it stays until the pod goes; the other way round the pod would find it
        return (DeleteClaim(seat.claim.name, seat.claim.uid),)
    reason = OTHER_CLASS if is_of_other_class(view, seat) else SMALLER_VOLUME
    return (DeletePod(seat.name, seat.pod.uid, reason),)
