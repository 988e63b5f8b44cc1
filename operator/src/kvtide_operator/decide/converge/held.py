"""What was given up, and for how long: the only memory of a pass, kept in the status of the cache."""

from collections.abc import Sequence

from kvtide_operator.api.moment import format_time
from kvtide_operator.api.quantity import format_duration, format_quantity
from kvtide_operator.decide.converge.view import Deadlines, Seat, Volumes, is_lost
from kvtide_operator.decide.steps import REFUSED_SAID, ExpandClaim, Held, NodeSizes, Refused, ResizePod
from kvtide_operator.world.cluster import ClaimState, PodState
from kvtide_operator.world.nodes import NodeState

NOT_RUNNING = "its pod does not run"


def still_held(
    seats: Sequence[Seat],
    sizes: NodeSizes,
    volumes: Volumes,
    held: Sequence[Held],
    refused: Sequence[Refused],
    *,
    now_s: float,
    target_since_s: float,
    deadlines: Deadlines,
) -> dict[str, Held]:
    """What each seat is held at now, by its pod's name: given up now, or before and not to be tried yet.

    A seat that is absent is held at nothing, from when it is first seen so. A hold ends with a newer target,
    after ``held_s``, or when the seat comes back.
    """
    before = {one.pod: one for one in held}
    now: dict[str, Held] = {}
    for seat in seats:
        old = before.get(seat.name)
        if seat.absent:
            kept = old if old is not None and not old.memory_bytes else None
            now[seat.name] = kept or Held(seat.name, 0, NOT_RUNNING, now_s)
            continue
        if seat.running is None:
            if old is not None:
                now[seat.name] = old
            continue
        over = old is not None and (
            old.since_s < target_since_s
            or now_s - old.since_s >= deadlines.held_s
            or old.memory_bytes == 0
            or (old.memory_bytes == sizes.memory_bytes and old.cpu is None)
            or (old.refused and _was_taken(old, seat.running[0]))
        )
        given_up = (None if over else old) or _memory_trouble(*seat.running, refused, now_s, deadlines)
        given_up = given_up or _claim_trouble(seat, sizes, old, refused, now_s, volumes)
        if given_up is not None:
            now[seat.name] = given_up
    return now


def _was_taken(held: Held, pod: PodState) -> bool:
    """Whether what had been refused was taken at another try: the pod is not to be what it was held at."""
    cpu = pod.wanted_cpu if held.cpu is None else held.cpu
    return (pod.wanted_memory_bytes, pod.wanted_cpu) != (held.memory_bytes, cpu)


def lost_or_held(
    seats: Sequence[Seat], held: dict[str, Held], now_s: float, deadlines: Deadlines
) -> dict[int, int]:
    """Ordinals of seats that do not get their share, and the memory limit they have instead: 0 when lost."""
    return {
        seat.ordinal: held[seat.name].memory_bytes
        for seat in seats
        if seat.name in held
        and (held[seat.name].memory_bytes or is_lost(seat, held[seat.name], now_s, deadlines))
    }


def _memory_trouble(
    pod: PodState, node: NodeState, refused: Sequence[Refused], now_s: float, deadlines: Deadlines
) -> Held | None:
    """A resize of the pod or a shrink of the node that was refused, or is overdue: the limit stays."""
    assert pod.memory_bytes is not None, "a node that answers runs"
    kept_cpu = pod.cpu if pod.wanted_cpu != pod.cpu else None
    for one in refused:
        if isinstance(one.step, ResizePod) and one.step.pod == pod.name:
            asked = format_quantity(one.step.memory_bytes)
            reason = f"{asked}{REFUSED_SAID}{one.sentence}"
            return Held(
                pod.name, pod.memory_bytes, reason, now_s, pod.cpu if one.step.cpu != pod.cpu else None
            )
    if node.resizing_s is not None and node.resizing_s >= deadlines.refused_s:
        reason = f"the node gives no memory back since {node.resizing_s:.0f} s"
        return Held(pod.name, pod.memory_bytes, reason, now_s)
    resize = pod.resize
    if resize is None:
        return None
    patience = {"Infeasible": deadlines.infeasible_s, "Deferred": deadlines.deferred_s}
    waited_s = now_s - resize.since_s
    if waited_s < patience.get(resize.reason, deadlines.refused_s):
        return None
    asked = format_quantity(pod.wanted_memory_bytes)
    reason = f"{asked} of memory are {resize.reason} for {waited_s:.0f} s: {resize.message}"
    if resize.reason in ("Error", "InProgress"):
        reason = f"a resize to {asked} of memory does not end since {waited_s:.0f} s: {resize.message}"
    return Held(pod.name, pod.memory_bytes, reason, now_s, kept_cpu)


def _claim_trouble(
    seat: Seat,
    sizes: NodeSizes,
    before: Held | None,
    refused: Sequence[Refused],
    now_s: float,
    volumes: Volumes,
) -> Held | None:
    """A volume that cannot have its size: the node keeps it, and its share of memory."""
    claim, needed = seat.claim, sizes.claim_bytes
    if claim is None or claim.actual_bytes is None or needed is None:
        return None
    if volumes.storage_class not in (None, claim.storage_class):
        return None  # it is replaced by one that has its size
    if claim.actual_bytes >= needed:
        ssd = seat.node.ssd if seat.node is not None else None
        cramped = ssd is not None and ssd.max_bytes < sizes.ssd_bytes
        problem = "its file system has less room than it should" if cramped else None
    elif claim.wanted_bytes >= needed:
        problem = claim.problem
    else:
        problem = _too_early(claim, now_s, volumes.grow_every_s) or _expansion_refused(claim, refused)
    if problem is None:
        return None
    reason = f"volume {claim.name} stays as it is: {problem}"
    since_s = before.since_s if before is not None and before.reason == reason else now_s
    return Held(seat.name, sizes.memory_bytes, reason, since_s)


def _too_early(claim: ClaimState, now_s: float, grow_every_s: float) -> str | None:
    """Until when the provider lets this volume not grow again."""
    if claim.grown_s is None or now_s - claim.grown_s >= grow_every_s:
        return None
    until = format_time(claim.grown_s + grow_every_s)
    return f"its class lets it grow every {format_duration(grow_every_s)}, again at {until}"


def _expansion_refused(claim: ClaimState, refused: Sequence[Refused]) -> str | None:
    for one in refused:
        if isinstance(one.step, ExpandClaim) and one.step.claim == claim.name:
            return one.sentence
    if claim.expandable:
        return claim.problem
    return f"its storage class {claim.storage_class or '(none)'} has no allowVolumeExpansion"
