"""The StatefulSet: how many replicas, and what its template says for pods to come."""

from kvtide_operator.decide.converge.claims import claim_template_bytes, claim_template_class
from kvtide_operator.decide.converge.topology import Slots
from kvtide_operator.decide.converge.view import View, current_replicas
from kvtide_operator.decide.steps import RecreateSet, SetSpec
from kvtide_operator.world.cluster import SetState


def next_set(view: View, slots: Slots) -> SetSpec | None:
    """What the set shall say now; None while it is being deleted."""
    stateful_set, current = view.world.stateful_set, current_replicas(view.world)
    if stateful_set is None:  # also between the deletion and the creation of one with another claim size
        return SetSpec(
            max(view.wanted, current),
            _template_memory_bytes(view),
            claim_template_bytes(view),
            claim_template_class(view),
        )
    if stateful_set.deleting:
        return None
    replicas = _kept_replicas(view, slots)
    if claims_differ(view, stateful_set) and not _adds_volumes(view, stateful_set):
        replicas = min(replicas, current)  # pods to come need the new claims
    return SetSpec(replicas, _template_memory_bytes(view), stateful_set.claim_bytes, stateful_set.claim_class)


def recreation(view: View, slots: Slots) -> RecreateSet | None:
    """Delete the set with other claims, when no seat is about to come or to go.

    A set with claims makes no surge while the pods of its lowest numbers have none: where volumes are added,
    the surge comes first, and the first node is emptied into it.
    """
    stateful_set = view.world.stateful_set
    if stateful_set is None or stateful_set.deleting or not claims_differ(view, stateful_set):
        return None
    awaited = [seat for seat in view.awaited if seat.ordinal < stateful_set.replicas]
    if awaited or (_adds_volumes(view, stateful_set) and not (slots.at_rest and view.rolled is not None)):
        return None
    pods, claims = view.world.pods, view.world.claims
    return RecreateSet(
        stateful_set.uid, tuple(pod.name for pod in pods), tuple(claim.name for claim in claims)
    )


def _adds_volumes(view: View, stateful_set: SetState) -> bool:
    """Whether there are nodes without a volume that shall have one, under a set without claims."""
    adds = stateful_set.claim_bytes is None and view.sizes.claim_bytes is not None
    return adds and any(seat.running is not None for seat in view.seats)


def _kept_replicas(view: View, slots: Slots) -> int:
    """All that shall be there, and up to the highest that may still hold something."""
    keep = view.wanted
    for seat in view.leaving:
        empty = view.lost(seat) or (
            slots.at_rest and seat.node is not None and not slots.owns(seat.node.node_id)
        )
        if not empty:
            keep = seat.ordinal + 1
    return keep


def _template_memory_bytes(view: View) -> int:
    """An equal share, or less if a pod has or shall have less: one that restarts has room where it was."""
    limits = [view.share_memory_bytes]
    for seat in view.members:
        if seat.running is not None:
            pod = seat.running[0]
            limits += [view.memory_bytes(seat), pod.memory_bytes or pod.wanted_memory_bytes]
    return min(limits)


def claims_differ(view: View, stateful_set: SetState) -> bool:
    """Whether the claims of pods to come are not what they shall be: a template of claims never changes."""
    return (claim_template_bytes(view), claim_template_class(view)) != (
        stateful_set.claim_bytes, stateful_set.claim_class,
    )  # fmt: skip
