"""The conditions of a TieredCache: true, false or unknown, and a sentence why. Pure."""

from typing import Final

from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.conditions import Condition, Truth, condition
from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.decide.plan_document import point_of
from kvtide_operator.decide.plans import is_at
from kvtide_operator.decide.split import beyond, least_volumes
from kvtide_operator.world.metrics import Missing, Stale, Value

Said = tuple[Truth, str, str]

_GRAVITY: Final = ("Infeasible", "Error", "Deferred", "InProgress")


def conditions_of(seen: StatusInputs) -> tuple[Condition, ...]:
    """All conditions, as of now."""
    said: dict[str, Said] = {
        "Ready": _ready(seen),
        "Reconciling": _reconciling(seen),
        "Stalled": _stalled(seen),
        "MetricsAvailable": _metrics_available(seen),
        "PlanCurrent": _plan_current(seen),
        "ConstraintsMet": _constraints_met(seen),
        "ResizePending": _resize_pending(seen),
    }
    generation = seen.cache.metadata.generation or None
    return tuple(
        condition(name, status, reason, message, at_s=int(seen.world.at_s), generation=generation)
        for name, (status, reason, message) in said.items()
    )


def _ready(seen: StatusInputs) -> Said:
    """Whether all nodes that there shall be serve, at whatever size."""
    if seen.world.stateful_set is None:
        return "False", "NoNodes", seen.problem or "there is no StatefulSet yet"
    wanted = seen.world.stateful_set.replicas
    serving = [pod.name for pod in seen.world.pods if pod.ready and not pod.deleting]
    if len(serving) < wanted:
        troubles = seen.world.troubles
        missing = {pod.name for pod in seen.world.pods if pod.name not in serving} | set(troubles)
        waits = [f"{name} ({troubles[name]})" if name in troubles else name for name in sorted(missing)]
        names = f": waits for {', '.join(waits)}" if waits else ""
        return "False", "NodesNotReady", f"{len(serving)} of {wanted} nodes are ready{names}"
    return "True", "NodesReady", f"{wanted} node{'s' if wanted > 1 else ''} ready"


def _reconciling(seen: StatusInputs) -> Said:
    if seen.done is None:
        return "False", "CannotAct", seen.problem or "nothing could be done in this pass"
    if seen.done.settled:
        return "False", "Settled", ""
    return "True", "Converging", "; ".join(seen.done.waiting) or "changes are being made"


def _stalled(seen: StatusInputs) -> Said:
    if seen.problem is not None:
        return "True", "NeedsAttention", seen.problem
    if seen.blocked:
        return "True", "ChildBlocked", "; ".join(seen.blocked)
    return "False", "NothingInTheWay", ""


def _metrics_available(seen: StatusInputs) -> Said:
    if seen.cache.spec.metrics is None:
        return "Unknown", "NotDeclared", "spec.metrics is not given: the nodes' traces alone drive the loop"
    if seen.metrics is None:
        return "Unknown", "NotAsked", "the source was not asked yet"
    readings = [reading for _, reading in seen.metrics.readings()]
    if any(isinstance(reading, Value) for reading in readings):
        warnings = "; ".join(seen.metrics.warnings)
        return "True", "Fresh", warnings
    if any(isinstance(reading, Stale) for reading in readings):
        return "False", "Stale", "all samples are older than metrics.staleAfter; sizes are kept"
    reasons = {reading.why: None for reading in readings if isinstance(reading, Missing)}
    return "False", "Missing", "; ".join(reasons)


def _plan_current(seen: StatusInputs) -> Said:
    """Whether what is wanted is what the newest plan chose, and what that could not take into account."""
    status, reason, message = _plan_followed(seen)
    if seen.plan is not None and seen.no_plan is None:
        message = "; ".join((message, *seen.notes))
    return status, reason, message


def _plan_followed(seen: StatusInputs) -> Said:
    mode = seen.cache.spec.scaling.mode
    if seen.no_plan is not None:
        return "False", "NoPlan", seen.no_plan
    if seen.plan is None:
        return _as_before(seen, "PlanCurrent")
    minimum = seen.cache.spec.scaling.minimum_gain
    if seen.plan.gain < minimum and not seen.plan.feasible:
        return "True", "NothingToGain", "no point comes nearer to the constraints, see ConstraintsMet"
    if seen.plan.gain < minimum:
        return "True", "NothingToGain", "no point of the frontier is better by scaling.minimumGain"
    if is_at(point_of(seen.plan.chosen), seen.target, minimum):
        return "True", "Followed", "the chosen point is what the cache shall be"
    size = format_quantity(seen.plan.chosen.configuration.dram_bytes)
    if mode == "Auto":
        return "False", "OnTheWay", f"a plan of {size} DRAM is approached in permitted steps"
    if mode == "Advise" and seen.approved:
        return "False", "OnTheWay", f"a plan of {size} DRAM was approved and is approached in permitted steps"
    awaits = "waits for approval" if mode == "Advise" else "is not applied: mode is Manual"
    return "False", f"{mode}Mode", f"a plan of {size} DRAM {awaits}"


def _as_before(seen: StatusInputs, name: str) -> Said:
    """An operator that has just started knows no better than its predecessor did."""
    for last in seen.cache.status.conditions if seen.cache.status else ():
        if last.type == name:
            return last.status, last.reason, last.message
    return "Unknown", "NotPlannedYet", "nothing was planned yet"


def _constraints_met(seen: StatusInputs) -> Said:
    """Whether what is asked of the cache can be had: its constraints, and no volumes larger than it."""
    oversold = seen.volume and least_volumes(seen.cache.spec, seen.volume)
    if oversold:
        return "False", "VolumesTooLarge", f"class {seen.ssd_class}: {oversold}"
    plan = seen.plan
    if seen.no_plan is not None:
        return "Unknown", "NoPlan", "there is no plan to see it by, see PlanCurrent"
    if plan is None:
        return _as_before(seen, "ConstraintsMet")
    if not plan.feasible:
        nearest = format_quantity(plan.chosen.configuration.dram_bytes)
        return "False", "OutOfReach", f"no size keeps them; the nearest, {nearest} DRAM, has {plan.missed}"
    if plan.missed_now:
        return "False", "NotYet", f"now the cache has {plan.missed_now}; the chosen point keeps all of them"
    return "True", "Kept", ""


def _resize_pending(seen: StatusInputs) -> Said:
    """Whether a size is wanted that some pod or volume does not have, or that none can have."""
    too_much = beyond(seen.target, seen.cache.spec, seen.volume)
    if too_much is not None:
        return "True", "DoesNotFit", too_much
    resizes = [(pod.name, pod.resize) for pod in seen.world.pods if pod.resize is not None]
    if resizes:
        reason = min((resize.reason for _, resize in resizes), key=_GRAVITY.index)
        return (
            "True",
            reason,
            "; ".join(f"{name}: {resize.message or resize.reason}" for name, resize in resizes),
        )
    problems = [f"{claim.name}: {claim.problem}" for claim in seen.world.claims if claim.problem]
    if problems:
        return "True", "VolumeNotGrown", "; ".join(problems)
    if seen.done and seen.done.held:
        return "True", "Held", "; ".join(f"{held.pod}: {held.reason}" for held in seen.done.held)
    return "False", "AllSizesInEffect", ""
