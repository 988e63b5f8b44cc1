"""One pass over a cache."""

import math
from collections.abc import Sequence

from kvtide_cachenode.contract.sizing import capacity_for
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.converge.claims import left_over, next_claim
from kvtide_operator.decide.converge.documents import deposed_by, document_for
from kvtide_operator.decide.converge.held import NOT_RUNNING, lost_or_held, still_held
from kvtide_operator.decide.converge.replicas import next_set, recreation
from kvtide_operator.decide.converge.roll import restarts, with_roll
from kvtide_operator.decide.converge.sizes import another_try, next_size
from kvtide_operator.decide.converge.topology import Slots, next_slots
from kvtide_operator.decide.converge.view import (
    DEADLINES,
    Deadlines,
    View,
    Volumes,
    current_replicas,
    seats_of,
)
from kvtide_operator.decide.split import node_sizes, with_held
from kvtide_operator.decide.steps import ExpandClaim, Held, Pass, Refused, ResizePod, SetSpec, Step
from kvtide_operator.decide.target import Target, idle_timeouts
from kvtide_operator.world.cluster import CacheWorld


def converge(
    world: CacheWorld,
    target: Target,
    spec: TieredCacheSpec,
    *,
    name: str,
    held: Sequence[Held],
    now_s: float,
    term: int,
    template_hash: str,
    refused: Sequence[Refused] = (),
    volume: Volume | None = None,
    storage_class: str | None = None,
    target_since_s: float = -math.inf,
    deadlines: Deadlines = DEADLINES,
) -> Pass:
    """What to do now so that the cache becomes as the target says, and loses nothing that it can hold.

    Nodes grow and new ones come first, then slots and entries move, then nodes go, then what is left shrinks.
    Each of these waits for the ones before it by what the world reports, never by a list of things to do.

    Args:
        name: of the cache.
        held: of the pass before.
        now_s: seconds since the epoch.
        term: of this leader; nodes that follow a later one are left alone.
        template_hash: that pods shall have.
        refused: steps that were refused, and are not to be tried again yet.
        volume: in which sizes the SSD's class is sold, and how often one grows.
        storage_class: of its volumes; None for the cluster's own choice, which is never changed.
        target_since_s: when the target was decided; what was given up before that is tried again.
    """
    sizes = node_sizes(target, spec, volume)
    seats = seats_of(world, name, range(max(current_replicas(world), spec.nodes.replicas.max + 1)))
    kept = still_held(
        seats,
        sizes,
        Volumes(storage_class, volume.grow_every if volume else 0.0),
        held,
        refused,
        now_s=now_s,
        target_since_s=target_since_s,
        deadlines=deadlines,
    )
    less = {at: capacity_for(limit) for at, limit in lost_or_held(seats, kept, now_s, deadlines).items()}
    share_memory_bytes = sizes.memory_bytes
    sizes = with_held(sizes, target, spec, less)
    view = View(
        name=name,
        world=world,
        spec=spec,
        sizes=sizes,
        share_memory_bytes=share_memory_bytes,
        held=kept,
        now_s=now_s,
        term=term,
        template_hash=template_hash,
        deadlines=deadlines,
        storage_class=storage_class,
        wanted=sizes.replicas,
    )
    return _pass(with_roll(view), target, refused)


def _pass(view: View, target: Target, refused: Sequence[Refused]) -> Pass:
    later = {seat.name: deposed_by(seat.node, view.term) for seat in view.seats if seat.node}
    deposed = {name: term for name, term in later.items() if term is not None}
    if deposed:
        said = f"{', '.join(deposed)} follows a later leader than term {view.term}"
        held = tuple(view.held.values())
        return Pass(None, waiting=(said,), held=held, deposed=max(deposed.values()))
    slots = next_slots(view)
    steps, waiting = _node_steps(view, slots, target)
    restarted, restarting = restarts(view, slots)
    recreated = recreation(view, slots)
    now = None if recreated is not None else next_set(view, slots)
    waiting += [slots.waiting, restarting, *_set_waiting(view, now)]
    waiting += [
        f"refused: {one.sentence}" for one in refused if not isinstance(one.step, ResizePod | ExpandClaim)
    ]
    if recreated is not None:
        waiting.append(f"StatefulSet {view.name} is made anew for other volumes; its pods go on")
    steps += [*restarted, *left_over(view), *([recreated] if recreated is not None else [])]
    waiting = [sentence for sentence in waiting if sentence]
    concerned = {seat.name for seat in view.seats if seat.ordinal < view.wanted or seat.claim is not None}
    held = tuple(one for pod, one in sorted(view.held.items()) if pod in concerned)
    settled = not steps and not waiting
    resting = {one.step.pod for one in refused if isinstance(one.step, ResizePod)}
    asked = {step.pod for step in steps if isinstance(step, ResizePod)}
    tries = [another_try(view, seat) for seat in view.seats if seat.name not in resting | asked]
    return Pass(now, (*steps, *filter(None, tries)), tuple(waiting), held, settled=settled)


def _node_steps(view: View, slots: Slots, target: Target) -> tuple[list[Step], list[str]]:
    """What every node that answers is told, and what its pod and volume are asked for."""
    steps: list[Step] = []
    waiting: list[str] = []
    may_shrink = slots.at_rest and not view.awaited
    for seat in view.seats:
        if seat.running is None:
            continue
        node = seat.running[1]
        size = next_size(view, seat, may_shrink=may_shrink)
        claim = next_claim(view, seat, may_shrink=may_shrink)
        told = document_for(
            seat.name,
            node,
            dram_bytes=size.dram_bytes,
            ssd_bytes=claim.ssd_bytes,
            ttl=idle_timeouts(target),
            topology=slots.tell.get(seat.name),
            term=view.term,
        )
        steps += [step for step in (told, size.resize, claim.expand) if step is not None]
        waiting += [size.waiting, claim.waiting]
    return steps, waiting


def _set_waiting(view: View, now: SetSpec | None) -> list[str]:
    """What the StatefulSet is to change, and which pods are awaited."""
    waiting = [f"waits for {seat.name}: {seat.why_silent or NOT_RUNNING}" for seat in view.awaited]
    stateful_set = view.world.stateful_set
    if stateful_set is None:
        return [f"makes StatefulSet {view.name}", *waiting]
    if stateful_set.deleting:
        return [f"StatefulSet {view.name} is being deleted", *waiting]
    if now is not None and now.replicas != stateful_set.replicas:
        waiting.append(f"goes from {stateful_set.replicas} to {now.replicas} replicas")
    elif current_replicas(view.world) != view.wanted:
        waiting.append(f"has {stateful_set.replicas} replicas, of {view.wanted}")
    if stateful_set.template_hash != view.template_hash or (
        now is not None and now.memory_bytes != stateful_set.memory_bytes
    ):
        waiting.append(f"the template of StatefulSet {view.name} changes")
    return waiting
