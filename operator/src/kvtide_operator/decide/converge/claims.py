"""Volumes: a claim grows, then what the node puts there; a smaller tier holds at once, its volume stays."""

from dataclasses import dataclass
from typing import Final

from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.decide.converge.view import Seat, View
from kvtide_operator.decide.split import ssd_for
from kvtide_operator.decide.steps import DeleteClaim, ExpandClaim
from kvtide_operator.world.nodes import SsdState

ROOM_STEP_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class ClaimStep:
    """What a node's SSD capacity shall be now (None without SSD), its claim's growth, what is waited for."""

    ssd_bytes: int | None
    expand: ExpandClaim | None = None
    waiting: str = ""


def next_claim(view: View, seat: Seat, *, may_shrink: bool) -> ClaimStep:
    """The next step of the SSD of one node that answers. One that leaves keeps its size."""
    assert seat.running is not None, "there is a next step only for a node that answers"
    ssd, claim, needed = seat.running[1].ssd, seat.claim, view.sizes.claim_bytes
    if ssd is None:
        return ClaimStep(None)
    has = ssd.capacity_bytes
    other_class = is_of_other_class(view, seat)
    if seat.ordinal >= view.wanted or claim is None or claim.actual_bytes is None or needed is None:
        return ClaimStep(has)
    expand, waiting = None, ""
    if other_class:
        waiting = ""  # it is replaced, not grown
    elif seat.name not in view.held and claim.wanted_bytes < needed:
        expand = ExpandClaim(claim.name, claim.resource_version, needed)
        waiting = f"volume {claim.name} is asked for {format_quantity(needed)}"
    elif claim.actual_bytes < min(claim.wanted_bytes, needed) and claim.problem is None:
        waiting = f"volume {claim.name} grows to {format_quantity(claim.wanted_bytes)}"
    goal = _goal_bytes(view, claim.actual_bytes, ssd, final=not waiting)
    if goal < has and not may_shrink:
        return ClaimStep(has, expand, waiting or f"the SSD tier of {seat.name} shrinks with the others")
    if goal > has and goal > ssd.max_bytes:
        return ClaimStep(has, expand, waiting or f"the file system of {seat.name} has yet to grow")
    if goal != has and not waiting:
        waiting = f"the SSD tier of {seat.name} goes to {format_quantity(goal)}"
    return ClaimStep(goal, expand, waiting)


def _goal_bytes(view: View, volume_bytes: int, ssd: SsdState, *, final: bool) -> int:
    """What of a node's share its volume has room for.

    Once the volume is as large as it gets (``final``), its file system has the last word, in large steps, so
    that what it says may tremble.
    """
    goal = min(view.sizes.ssd_bytes, ssd_for(volume_bytes))
    if final and goal > ssd.max_bytes:
        return max(min(ssd.capacity_bytes, goal), ssd.max_bytes // ROOM_STEP_BYTES * ROOM_STEP_BYTES)
    return goal


def lacks_ssd(view: View, seat: Seat) -> bool:
    """Whether a node's SSD tier has yet to grow, and will."""
    claim, node = seat.claim, seat.node
    if node is None or node.ssd is None or claim is None or claim.actual_bytes is None:
        return False
    grows = (
        not is_of_other_class(view, seat)
        and claim.expandable
        and claim.problem is None
        and seat.name not in view.held
    )
    if grows and claim.actual_bytes < (view.sizes.claim_bytes or 0):
        return True
    return node.ssd.capacity_bytes < _goal_bytes(view, claim.actual_bytes, node.ssd, final=True)


def claim_template_bytes(view: View) -> int | None:
    """The size in the StatefulSet's claim template: with ``reclaim: Keep`` never less than it is."""
    needed, stateful_set = view.sizes.claim_bytes, view.world.stateful_set
    if needed is None or stateful_set is None or stateful_set.claim_bytes is None:
        return needed
    replaces = view.spec.ssd is not None and view.spec.ssd.reclaim == "Replace"
    if replaces or claim_template_class(view) != stateful_set.claim_class:
        return needed
    return max(needed, stateful_set.claim_bytes)


def claim_template_class(view: View) -> str | None:
    """The StorageClass in the StatefulSet's claim template: what it is where none is named."""
    stateful_set = view.world.stateful_set
    if view.sizes.claim_bytes is None:
        return None
    return view.storage_class or (stateful_set.claim_class if stateful_set else None)


def is_of_other_class(view: View, seat: Seat) -> bool:
    """Whether a seat's volume is of another StorageClass than it shall be: volumes do not change theirs."""
    return (
        seat.claim is not None
        and view.sizes.claim_bytes is not None
        and view.storage_class not in (None, seat.claim.storage_class)
    )


def left_over(view: View) -> tuple[DeleteClaim, ...]:
    """Claims that no pod has and none will: of seats that are gone, or of an SSD tier that is.

    The StatefulSet deletes those of its own that it scales in, but not those that outlived another set.
    """
    stateful_set = view.world.stateful_set
    if stateful_set is None or stateful_set.deleting:
        return ()
    pods = {pod.ordinal: pod for pod in view.world.pods}
    tier_gone = stateful_set.claim_bytes is None and view.sizes.claim_bytes is None
    steps = []
    for claim in view.world.claims:
        pod = pods.get(claim.ordinal)
        seat_gone = pod is None and claim.ordinal >= max(stateful_set.replicas, view.wanted)
        let_go = tier_gone and (pod is None or pod.template_hash == view.template_hash)
        if (seat_gone or let_go) and not claim.deleting:
            steps.append(DeleteClaim(claim.name, claim.uid))
    return tuple(steps)


def lacks_volume(view: View, seat: Seat) -> bool:
    """Whether a node that answers was made without a volume and shall have one: only another pod has it."""
    return view.sizes.claim_bytes is not None and seat.node is not None and seat.node.ssd is None


def is_replaced(view: View, seat: Seat) -> bool:
    """Whether another volume is to take the place of a seat's: a smaller one, or of another class."""
    ssd, needed, claim = view.spec.ssd, view.sizes.claim_bytes, seat.claim
    if claim is None or needed is None:
        return False
    replaces = ssd is not None and ssd.reclaim == "Replace"
    too_large = replaces and claim.wanted_bytes > needed
    return claim.deleting or too_large or is_of_other_class(view, seat)
