"""The conditions of a cache: what is said, and since when."""

from dataclasses import replace

import pytest

from kvtide_operator.act.status import status_of
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.conditions import Condition
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.decide.steps import Held, Pass
from kvtide_operator.decide.target import Target
from kvtide_operator.world.cluster import ClaimState, PodResize
from kvtide_operator.world.metrics import EngineMetrics, Stale, Value, unavailable

from .conftest import GIB, NOW_S, STATEFUL_SET, WORLD, after, cache, plan, pod


def condition(seen: StatusInputs, name: str) -> Condition:
    return next(each for each in status_of(seen).conditions if each.type == name)


def brief(seen: StatusInputs, name: str) -> tuple[str, str, str]:
    found = condition(seen, name)
    return found.status, found.reason, found.message


def test_ready_waits_for_every_node_of_the_set(seen: StatusInputs) -> None:
    world = replace(WORLD, pods=(pod(0), pod(1, ready=False)))
    assert brief(replace(seen, world=world), "Ready") == (
        "False", "NodesNotReady", "1 of 2 nodes are ready: waits for vllm-small-1",
    )  # fmt: skip
    leaving = replace(WORLD, pods=(pod(0), pod(1, deleting=True)))
    assert brief(replace(seen, world=leaving), "Ready")[0] == "False"
    none = replace(WORLD, stateful_set=None, pods=())
    assert brief(replace(seen, world=none), "Ready") == ("False", "NoNodes", "there is no StatefulSet yet")
    more = replace(WORLD, stateful_set=replace(STATEFUL_SET, replicas=1))
    assert brief(replace(seen, world=more), "Ready")[0] == "True", "a node that is to go is one too many"


def test_reconciling_says_what_is_waited_for(seen: StatusInputs) -> None:
    done = Pass(None, waiting=("vllm-small-0 grows to 4Gi", "vllm-small-1 starts"))
    assert brief(replace(seen, done=done), "Reconciling") == (
        "True", "Converging", "vllm-small-0 grows to 4Gi; vllm-small-1 starts",
    )  # fmt: skip


def test_what_cannot_be_acted_on_is_stalled(seen: StatusInputs) -> None:
    stuck = replace(seen, done=None, problem="TierClass 'gold' does not exist; make it or name another")
    assert brief(stuck, "Stalled") == (
        "True", "NeedsAttention", "TierClass 'gold' does not exist; make it or name another",
    )  # fmt: skip
    assert brief(stuck, "Reconciling")[:2] == ("False", "CannotAct")
    assert brief(stuck, "Ready")[0] == "True", "what runs goes on running"


MEASURED = {"prometheus": {"url": "http://prometheus:9090"}}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, ("Unknown", "NotAsked")),
        (EngineMetrics(at_s=NOW_S, window_s=60, running=Value(NOW_S, 0.0)), ("True", "Fresh")),
        (EngineMetrics(at_s=NOW_S, window_s=60, running=Stale(NOW_S - 900, 2.0)), ("False", "Stale")),
        (unavailable(NOW_S, 60, "http://prometheus:9090 refused the connection"), ("False", "Missing")),
    ],
)
def test_metrics_are_there_or_stale_or_missing(seen: StatusInputs, metrics, said) -> None:
    declared = replace(seen, cache=cache(metrics=MEASURED), metrics=metrics)
    assert brief(declared, "MetricsAvailable")[:2] == said


def test_missing_metrics_say_why_once(seen: StatusInputs) -> None:
    declared = replace(
        seen, cache=cache(metrics=MEASURED), metrics=unavailable(NOW_S, 60, "the connection was refused")
    )
    assert condition(declared, "MetricsAvailable").message == "the connection was refused"


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        ("Auto", {}, ("Unknown", "NotPlannedYet")),
        ("Auto", {"no_plan": "no request within the window"}, ("False", "NoPlan")),
        ("Auto", {"plan": plan()}, ("False", "OnTheWay")),
        ("Advise", {"plan": plan()}, ("False", "AdviseMode")),
        ("Manual", {"plan": plan()}, ("False", "ManualMode")),
        ("Auto", {"plan": plan(gain=0.01)}, ("True", "NothingToGain")),
        ("Auto", {"plan": plan(), "target": Target(8 * GIB)}, ("True", "Followed")),
    ],
)
def test_a_plan_is_current_when_it_is_followed(seen: StatusInputs, mode, changes, said) -> None:
    planned = replace(seen, cache=cache(scaling={"mode": mode}), **changes)
    assert brief(planned, "PlanCurrent")[:2] == said


def test_a_plan_says_what_it_did_not_believe(seen: StatusInputs) -> None:
    planned = replace(seen, plan=plan(), notes=("40% of the requests are left out",))
    assert condition(planned, "PlanCurrent").message.endswith("; 40% of the requests are left out")


def test_an_approved_plan_does_not_wait_for_approval(seen: StatusInputs) -> None:
    planned = replace(seen, cache=cache(scaling={"mode": "Advise"}), plan=plan())
    assert "waits for approval" in condition(planned, "PlanCurrent").message
    approved = condition(replace(planned, approved=True), "PlanCurrent")
    assert (approved.reason, "waits" in approved.message) == ("OnTheWay", False)


def test_what_is_in_the_way_is_said(seen: StatusInputs) -> None:
    blocked = replace(seen, blocked=("Service chat belongs to Deployment web", "Pod chat-0 cannot be read"))
    assert brief(blocked, "Stalled") == (
        "True", "ChildBlocked", "Service chat belongs to Deployment web; Pod chat-0 cannot be read",
    )  # fmt: skip


def test_the_gravest_resize_is_the_reason(seen: StatusInputs) -> None:
    waits = PodResize("InProgress", "", NOW_S)
    full = PodResize("Infeasible", "Node didn't have enough capacity: memory", NOW_S)
    world = replace(WORLD, pods=(pod(0, resize=waits), pod(1, resize=full)))
    assert brief(replace(seen, world=world), "ResizePending") == (
        "True",
        "Infeasible",
        "vllm-small-0: InProgress; vllm-small-1: Node didn't have enough capacity: memory",
    )


def test_volumes_and_given_up_sizes_are_pending(seen: StatusInputs) -> None:
    claim = ClaimState(
        "ssd-vllm-small-0", 0, "u", "1", None, 2 * GIB, GIB, expandable=False, problem="quota exceeded"
    )
    assert brief(replace(seen, world=replace(WORLD, claims=(claim,))), "ResizePending") == (
        "True", "VolumeNotGrown", "ssd-vllm-small-0: quota exceeded",
    )  # fmt: skip
    held = Pass(None, held=(Held("vllm-small-1", GIB, "Deferred for 300 s", NOW_S),), settled=True)
    assert brief(replace(seen, done=held), "ResizePending") == (
        "True", "Held", "vllm-small-1: Deferred for 300 s",
    )  # fmt: skip


def test_a_condition_keeps_its_time_until_its_status_changes(seen: StatusInputs) -> None:
    later = after(seen, world=replace(WORLD, at_s=NOW_S + 100))
    assert condition(later, "Ready").last_transition_time == NOW_S
    pods = (pod(0), pod(1, ready=False))
    fallen = replace(later, world=replace(WORLD, at_s=NOW_S + 200, pods=pods))
    assert condition(fallen, "Ready").last_transition_time == NOW_S + 200
    assert condition(fallen, "Stalled").last_transition_time == NOW_S


def test_constraints_that_no_size_keeps_are_named_with_the_nearest_point(seen: StatusInputs) -> None:
    far = "a TTFT p99 of 1 s, 100% above 0.5 s"
    out = replace(plan(gain=0.0), feasible=False, missed=far, missed_now=far)
    said = replace(seen, plan=out)
    assert brief(said, "ConstraintsMet") == (
        "False", "OutOfReach", f"no size keeps them; the nearest, 8Gi DRAM, has {far}",
    )  # fmt: skip
    assert "no point comes nearer to the constraints" in condition(said, "PlanCurrent").message
    not_yet = replace(seen, plan=replace(plan(), missed_now=far))
    assert brief(not_yet, "ConstraintsMet")[:2] == ("False", "NotYet")
    kept = replace(seen, plan=plan())
    assert brief(kept, "ConstraintsMet") == ("True", "Kept", "")
    assert brief(after(kept, plan=None), "ConstraintsMet") == ("True", "Kept", "")
    assert brief(replace(seen, no_plan="cannot plan: x"), "ConstraintsMet")[:2] == ("Unknown", "NoPlan")


def test_volumes_that_are_larger_than_the_tier_may_be_are_said(seen: StatusInputs) -> None:
    large = replace(seen, cache=cache("vllm-large"), ssd_class="essd-pl1", volume=Volume(min=20 * GIB))
    assert brief(large, "ConstraintsMet")[0] == "Unknown"
    sold_large = replace(large, volume=Volume(min=4096 * GIB))
    status, reason, message = brief(sold_large, "ConstraintsMet")
    assert (status, reason) == ("False", "VolumesTooLarge")
    assert message.startswith("class essd-pl1: the smallest volume sold is 4Ti, and 8 of them are paid for")
    assert "tier ssd has at most 16Ti; raise its capacity.max" in message


def test_a_size_that_no_node_can_hold_is_not_in_effect(seen: StatusInputs) -> None:
    nodes = {"replicas": {"min": 2, "max": 4}, "maxMemory": "4Gi"}
    beyond = replace(seen, cache=cache(nodes=nodes), target=Target(20 * GIB))
    status, reason, message = brief(beyond, "ResizePending")
    assert (status, reason) == ("True", "DoesNotFit")
    assert message.startswith("4 nodes of nodes.maxMemory 4Gi hold 15161Mi DRAM, wanted are 20Gi: raise")
    assert message.endswith("nodes.maxMemory to 5466Mi or allow more nodes")
    assert brief(replace(beyond, target=Target(15 * 1000 << 20)), "ResizePending")[0] == "False"
    few = replace(
        seen, cache=cache("vllm-large"), volume=Volume(max=100 * GIB), target=Target(1 << 40, 1 << 40)
    )
    status, reason, message = brief(few, "ResizePending")
    assert (status, reason) == ("True", "DoesNotFit")
    assert message.startswith("8 volumes of volume.max 100Gi hold 779215Mi SSD, wanted are 1Ti: allow more")


def doing(seen: StatusInputs) -> str:
    summary = status_of(seen).summary
    assert summary is not None
    return summary.doing


def test_what_the_operator_is_at_is_one_word(seen: StatusInputs) -> None:
    assert doing(seen) == "Settled"
    assert doing(replace(seen, world=replace(WORLD, pods=(pod(0),)))) == "Starting"
    assert doing(replace(seen, problem="no class", done=None)) == "Stalled"
    moving = replace(seen, target=Target(8 * GIB), done=Pass(None, waiting=("vllm-small-0 grows",)))
    assert doing(moving) == "Resizing"
    assert doing(replace(moving, target=seen.target)) == "Converging"
    held = Pass(None, held=(Held("vllm-small-1", GIB, "Deferred", NOW_S),), settled=True)
    assert doing(replace(seen, done=held)) == "ResizePending"
    assert doing(replace(seen, no_plan="cannot plan: x")) == "NoPlan"
    advised = replace(seen, cache=cache(scaling={"mode": "Advise"}), plan=plan())
    assert doing(advised) == "AwaitsApproval"
