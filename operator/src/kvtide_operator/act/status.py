"""What a TieredCache's status says of the world. Pure: the same world gives the same status, to the byte.

No figure moves without news: what trembles, such as a hit ratio, is written again when it moved by a step.
"""

import re
from typing import Any, Final

from kvtide_operator.act.kubernetes.children.names import client_url, connection_name
from kvtide_operator.act.status_conditions import conditions_of
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.act.status_summary import summary_of
from kvtide_operator.api.conditions import merged, shortened
from kvtide_operator.api.quantity import format_cpu, parse_cpu
from kvtide_operator.api.status import (
    MAX_DECISIONS,
    CacheNodeStatus,
    Connection,
    DecisionStatus,
    Endpoints,
    HeldSize,
    PlanStatus,
    PredictionError,
    SubtreeTtl,
    TieredCacheStatus,
    TierStatus,
    TtlGroups,
)
from kvtide_operator.decide.outcomes import FAILED
from kvtide_operator.decide.plan_document import point_of
from kvtide_operator.decide.plans import saved
from kvtide_operator.decide.steps import Held
from kvtide_operator.decide.target import GroupTtls, Target, target_with
from kvtide_operator.world.cluster import CacheWorld, PodState
from kvtide_operator.world.metrics import known

RATIO_STEP: Final = 0.01
"""Hit ratios are written to the hundredth, and again when they have moved by a whole one."""
ERROR_STEP: Final = 0.002
"""The same for prediction errors, whose running mean is read back from here: it must not get stuck."""
USED_STEPS: Final = 100
"""What a tier holds is written in hundredths of its size, and again when it has moved by two."""
MIB: Final = 1 << 20
_NUMBERS: Final = re.compile(r"\d+(?:[.,]\d+)*")


def status_of(seen: StatusInputs) -> TieredCacheStatus:
    """The status as of now."""
    cache, last = seen.cache, seen.cache.status or TieredCacheStatus()
    tiers = _tiers(seen, last)
    costs = [tier.cost_per_hour for tier in tiers]
    measured = known(seen.metrics.prefix_hit_ratio) if seen.metrics else None
    if measured is None:
        measured = seen.prefix_hit_ratio
    generation = cache.metadata.generation or None
    conditions = merged(last.conditions, conditions_of(seen))
    return TieredCacheStatus(
        observed_generation=generation,
        summary=summary_of(seen, tiers, conditions),
        looked_after_by=last.looked_after_by,
        endpoints=Endpoints(redis=client_url(cache)),
        connection=Connection(config_map=connection_name(cache)),
        hit_ratio=_steady(measured, last.hit_ratio, RATIO_STEP),
        cost_per_hour=sum(cost for cost in costs if cost is not None)
        if None not in costs and seen.has_one_currency
        else None,
        tiers=tiers,
        nodes=_nodes(seen),
        plan=_plan(seen, last),
        decisions=_decisions(seen, last),
        conditions=conditions,
    )


def written(status: TieredCacheStatus) -> dict[str, Any]:
    """The status as the API server stores it: where it equals what is there, nothing is to be written."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def remembered_target(status: TieredCacheStatus | None) -> Target | None:
    """What an earlier operator wanted the cache to hold."""
    tiers = {tier.medium: tier for tier in status.tiers} if status else {}
    if "DRAM" not in tiers:
        return None
    ssd = tiers.get("SSD")
    if ssd is None:
        return Target(tiers["DRAM"].desired)
    groups = None
    if ssd.ttl_groups is not None:
        by_root = tuple((each.root, each.ttl) for each in ssd.ttl_groups.subtrees)
        groups = GroupTtls(by_root, ssd.ttl_groups.other)
    return Target(tiers["DRAM"].desired, ssd.desired, ssd.ttl, groups)


def remembered_ssd_class(status: TieredCacheStatus | None) -> str | None:
    """The class that an earlier operator gave the SSD."""
    tiers = status.tiers if status else ()
    return next((tier.class_name for tier in tiers if tier.medium == "SSD"), None)


def remembered_moves(status: TieredCacheStatus | None) -> list[DecisionStatus]:
    """The decisions that were to change something, newest first."""
    return [one for one in (status.decisions if status else ()) if one.action != "Hold"]


def remembered_holds(status: TieredCacheStatus | None) -> tuple[Held, ...]:
    """The nodes that gave up on their share, as an earlier pass left them."""
    return tuple(
        Held(
            node.name,
            node.held.memory,
            node.held.reason,
            node.held.since,
            parse_cpu(node.held.cpu) if node.held.cpu else None,
        )
        for node in (status.nodes if status else ())
        if node.held is not None
    )


def _tiers(seen: StatusInputs, last: TieredCacheStatus) -> tuple[TierStatus, ...]:
    world, spec = seen.world, seen.cache.spec
    nodes = world.nodes.values()
    before = {tier.name: tier for tier in last.tiers}
    memory = [pod.memory_bytes or pod.wanted_memory_bytes for pod in world.pods]
    dram = _tier(
        seen,
        TierStatus(
            name=spec.dram.name,
            medium="DRAM",
            class_name=spec.dram.classes[0],
            desired=seen.target.dram_bytes,
            actual=sum(node.capacity_bytes for node in nodes) if nodes else None,
            used=sum(node.used_bytes for node in nodes) if nodes else None,
            paid=sum(memory) if memory else None,
        ),
        before.get(spec.dram.name),
    )
    if spec.ssd is None:
        return (dram,)
    disks = [node.ssd for node in nodes if node.ssd is not None]
    volumes = [claim.actual_bytes for claim in world.claims if claim.actual_bytes is not None]
    ssd = _tier(
        seen,
        TierStatus(
            name=spec.ssd.name,
            medium="SSD",
            class_name=seen.ssd_class or spec.ssd.classes[0],
            desired=seen.target.ssd_bytes,
            ttl=seen.target.ttl_s,
            ttl_groups=_ttl_groups(seen.target),
            actual=sum(disk.capacity_bytes for disk in disks) if nodes else None,
            used=sum(disk.used_bytes for disk in disks) if nodes else None,
            paid=sum(volumes) if volumes or not world.claims else None,
        ),
        before.get(spec.ssd.name),
    )
    return dram, ssd


def _ttl_groups(target: Target) -> TtlGroups | None:
    if target.groups is None:
        return None
    subtrees = tuple(SubtreeTtl(root=root, ttl=ttl_s) for root, ttl_s in target.groups.by_root)
    return TtlGroups(subtrees=subtrees, other=target.groups.other_s)


def _tier(seen: StatusInputs, tier: TierStatus, last: TierStatus | None) -> TierStatus:
    """The tier with its price, and with what trembles as it was written last where it has hardly moved."""
    price = seen.prices.get(tier.medium)
    used = tier.used
    if used is not None and tier.actual:
        step = max(tier.actual // USED_STEPS // MIB * MIB, 1)
        used = used // step * step
        if last and last.used is not None and last.actual == tier.actual and abs(used - last.used) < 2 * step:
            used = last.used
    return tier.model_copy(
        update={
            "used": used,
            "hit_ratio": _steady(
                seen.hit_ratios.get(tier.medium), last.hit_ratio if last else None, RATIO_STEP
            ),
            "cost_per_hour": price(tier.paid) if price and tier.paid is not None else None,
        }
    )


def _steady(now: float | None, last: float | None, step: float) -> float | None:
    """A figure to the step, as it was written last where it has moved by less than that."""
    if now is None:
        return None
    return last if last is not None and abs(now - last) < step else round(round(now / step) * step, 6)


def _nodes(seen: StatusInputs) -> tuple[CacheNodeStatus, ...]:
    """Every pod, and places of the set that are held at nothing because no pod runs there."""
    held = {each.pod: each for each in seen.done.held} if seen.done else {}
    pods = {pod.name: _node(pod, seen.world, held.get(pod.name)) for pod in seen.world.pods}
    absent = {
        name: CacheNodeStatus(name=name, ready=False, held=_held(each))
        for name, each in held.items()
        if name not in pods
    }
    return tuple(sorted((pods | absent).values(), key=lambda node: int(node.name.rpartition("-")[2])))


def _held(held: Held) -> HeldSize:
    return HeldSize(
        memory=held.memory_bytes,
        cpu=None if held.cpu is None else format_cpu(held.cpu),
        reason=shortened(held.reason),
        since=int(held.since_s),
    )


def _node(pod: PodState, world: CacheWorld, held: Held | None) -> CacheNodeStatus:
    state = world.nodes.get(pod.name)
    silent = world.silent.get(pod.name)
    return CacheNodeStatus(
        name=pod.name,
        ready=pod.ready and not pod.deleting,
        memory=pod.memory_bytes,
        dram=state.capacity_bytes if state else None,
        ssd=state.ssd.capacity_bytes if state and state.ssd else None,
        held=_held(held) if held else None,
        silent=shortened(silent) if silent else None,
    )


def _plan(seen: StatusInputs, last: TieredCacheStatus) -> PlanStatus | None:
    plan = seen.plan
    if plan is None:
        found = last.plan
    else:
        point, baseline = point_of(plan.chosen), point_of(plan.current)
        before, after = baseline.tiers_per_hour, point.tiers_per_hour
        found = PlanStatus(point=point, baseline=baseline, savings=round(saved(before, after), 4))
    if found is None:
        return None
    error = _error(seen.prediction_error, last.plan.prediction_error if last.plan else None)
    return found.model_copy(
        update={"name": seen.plan_name if plan else found.name, "prediction_error": error}
    )


def _error(now: PredictionError | None, last: PredictionError | None) -> PredictionError | None:
    if now is None or last is None:
        return now or last
    return PredictionError(
        hit_ratio=_steady(now.hit_ratio, last.hit_ratio, ERROR_STEP),
        ttft=_steady(now.ttft, last.ttft, ERROR_STEP),
    )


def _decisions(seen: StatusInputs, last: TieredCacheStatus) -> tuple[DecisionStatus, ...]:
    """The last ten, newest first, and what came of the last move; one that says the same again is no news."""
    kept = list(last.decisions)
    for decision in seen.decisions:
        if not kept or not _same(decision, kept[0]):
            kept.insert(0, decision)
    moves = (at for at, decision in enumerate(kept) if decision.before != decision.after)
    move = next(moves, None)
    if move is not None and kept[move].outcome is None:
        kept[move] = kept[move].model_copy(update={"outcome": _outcome(kept[move], seen)})
    return tuple(kept[:MAX_DECISIONS])


def _same(one: DecisionStatus, other: DecisionStatus) -> bool:
    """Whether two say the same but for the figures in their reasons, which no decision changed for."""
    return (one.action, one.before, one.after, _NUMBERS.sub("", one.reason)) == (
        other.action,
        other.before,
        other.after,
        _NUMBERS.sub("", other.reason),
    )


def _outcome(decision: DecisionStatus, seen: StatusInputs) -> str | None:
    """What came of a decision, once the cache has settled at it."""
    if seen.done is None or not seen.done.settled or seen.target.sizes != target_with(decision.after):
        return None
    if decision.after.ssd_class not in (None, seen.ssd_class):
        return None
    took_s = max(seen.world.at_s - decision.time, 0.0)
    if seen.done.held:
        reasons = "; ".join(f"{held.pod}: {held.reason}" for held in seen.done.held)
        return shortened(f"{FAILED}as near as it can be after {took_s:.0f} s: {reasons}")
    return f"in effect after {took_s:.0f} s"
