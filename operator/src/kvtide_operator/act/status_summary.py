"""A cache in the few words that ``kubectl get`` has room for. Pure."""

from collections.abc import Sequence
from typing import Final

from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.conditions import Condition
from kvtide_operator.api.quantity import rounded_quantity
from kvtide_operator.api.status import Summary, TierStatus

_PLANS: Final = {"NoPlan": "NoPlan", "OnTheWay": "Resizing", "AdviseMode": "AwaitsApproval"}
"""By the reason of `PlanCurrent`; in ``Manual`` a plan that is not applied is nothing to wait for."""


def summary_of(seen: StatusInputs, tiers: Sequence[TierStatus], conditions: Sequence[Condition]) -> Summary:
    """Nodes ready of those wanted, sizes there of those decided, and what the operator is doing."""
    by_type = {each.type: each for each in conditions}
    sizes = {tier.medium: _size(tier) for tier in tiers}
    wanted = seen.world.stateful_set.replicas if seen.world.stateful_set else 0
    ready = sum(pod.ready and not pod.deleting for pod in seen.world.pods)
    return Summary(
        nodes=f"{ready}/{wanted}",
        dram=sizes["DRAM"],
        ssd=sizes.get("SSD"),
        doing=_doing(by_type, resizes=any(tier.actual != tier.desired for tier in tiers)),
    )


def _size(tier: TierStatus) -> str:
    actual = "?" if tier.actual is None else rounded_quantity(tier.actual)
    return f"{actual}/{rounded_quantity(tier.desired)}"


def _doing(conditions: dict[str, Condition], *, resizes: bool) -> str:
    """The gravest first; the condition of the same thing has the whole sentence."""
    if conditions["Stalled"].status == "True":
        return "Stalled"
    if conditions["Ready"].status == "False":
        return "Starting"
    if conditions["ResizePending"].status == "True":
        return "ResizePending"
    if conditions["Reconciling"].status == "True":
        return "Resizing" if resizes else "Converging"
    plan = conditions["PlanCurrent"]
    return _PLANS.get(plan.reason, "Settled") if plan.status == "False" else "Settled"
