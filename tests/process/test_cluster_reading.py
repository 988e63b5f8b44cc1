"""Objects as a real cluster said them → what decide looks at."""

from collections.abc import Callable
from typing import Any

import pytest

from kvtide_operator.observe.cluster import claim_state, epoch_s, ordinal_of, pod_state, set_state

MI = 1 << 20
Recorded = Callable[[str], dict[str, Any]]


def test_a_pod_whose_container_waits_has_no_limit_of_its_own(recorded: Recorded) -> None:
    pod = pod_state(recorded("pod-crashing"))
    assert (pod.name, pod.ordinal, pod.template_hash) == ("chat-0", 0, "abc")
    assert pod.wanted_memory_bytes == 256 * MI
    assert pod.memory_bytes is None
    assert pod.restarts == 3
    assert not pod.ready
    assert pod.resize is None


def test_an_infeasible_resize_keeps_the_size_and_says_why(recorded: Recorded) -> None:
    pod = pod_state(recorded("pod-infeasible"))
    assert pod.wanted_memory_bytes == 100 << 30
    assert pod.memory_bytes == 320 * MI
    assert pod.ready
    assert pod.resize is not None
    assert pod.resize.reason == "Infeasible"
    assert "Node didn't have enough capacity: memory" in pod.resize.message
    assert pod.resize.since_s == epoch_s("2026-11-21T15:31:53Z")


def test_a_refused_shrink_is_an_error_with_the_kubelets_words(recorded: Recorded) -> None:
    pod = pod_state(recorded("pod-shrink-refused"))
    assert pod.wanted_memory_bytes == 8 * MI
    assert pod.memory_bytes == 320 * MI
    assert pod.resize is not None
    assert pod.resize.reason == "Error"
    assert "below current usage" in pod.resize.message


def test_a_pending_resize_counts_before_the_one_in_progress(recorded: Recorded) -> None:
    raw = recorded("pod-shrink-refused")
    raw["status"]["conditions"].append(
        {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "later"}
    )
    pod = pod_state(raw)
    assert pod.resize is not None
    assert (pod.resize.reason, pod.resize.message) == ("Deferred", "later")


def test_a_condition_that_is_over_is_no_resize(recorded: Recorded) -> None:
    raw = recorded("pod-infeasible")
    for condition in raw["status"]["conditions"]:
        if condition["type"] == "PodResizePending":
            condition["status"] = "False"
    assert pod_state(raw).resize is None


def test_a_pod_that_goes_is_said_to(recorded: Recorded) -> None:
    assert pod_state(recorded("pod-deleting")).deleting
    assert not pod_state(recorded("pod-infeasible")).deleting


def test_a_pod_that_nobody_has_scheduled_yet() -> None:
    raw = {
        "metadata": {"name": "chat-3", "uid": "u", "resourceVersion": "7"},
        "spec": {"containers": [{"name": "node", "resources": {"limits": {"memory": "1G"}}}]},
    }
    pod = pod_state(raw)
    assert (pod.ordinal, pod.ip, pod.ready, pod.memory_bytes, pod.restarts) == (3, None, False, None, 0)
    assert pod.wanted_memory_bytes == 10**9


def test_a_claim_and_whether_its_class_lets_it_grow(recorded: Recorded) -> None:
    classes = {"loop": recorded("storageclass")}
    bound = claim_state(recorded("claim-bound"), classes)
    assert (bound.name, bound.ordinal, bound.storage_class) == ("ssd-chat-0", 0, "loop")
    assert (bound.wanted_bytes, bound.actual_bytes) == (300 * MI, 300 * MI)
    assert bound.expandable
    assert not claim_state(recorded("claim-bound"), {}).expandable


def test_a_claim_that_grows_has_its_old_size_until_the_file_system_has_the_new(recorded: Recorded) -> None:
    growing = claim_state(recorded("claim-growing"), {})
    assert (growing.wanted_bytes, growing.actual_bytes, growing.problem) == (400 * MI, 300 * MI, None)


def test_a_claim_without_a_volume_has_no_size(recorded: Recorded) -> None:
    raw = recorded("claim-bound")
    raw["status"] = {"phase": "Pending"}
    assert claim_state(raw, {}).actual_bytes is None


@pytest.mark.parametrize("kind", ["ControllerResizeError", "NodeResizeError"])
def test_a_claim_that_cannot_grow_says_why(recorded: Recorded, kind: str) -> None:
    raw = recorded("claim-growing")
    raw["status"]["conditions"].append({"type": kind, "status": "True", "message": "Permission denied"})
    assert claim_state(raw, {}).problem == f"{kind}: Permission denied"


def test_a_volume_that_can_never_have_the_size(recorded: Recorded) -> None:
    raw = recorded("claim-growing")
    raw["status"]["allocatedResourceStatuses"] = {"storage": "ControllerResizeInfeasible"}
    assert "ControllerResizeInfeasible" in str(claim_state(raw, {}).problem)


def test_a_stateful_set(recorded: Recorded) -> None:
    seen = set_state(recorded("statefulset"))
    assert (seen.replicas, seen.memory_bytes, seen.claim_bytes) == (1, 256 * MI, 300 * MI)
    assert (seen.template_hash, seen.deleting) == ("abc", False)
    raw = recorded("statefulset")
    del raw["spec"]["volumeClaimTemplates"]
    assert set_state(raw).claim_bytes is None


def test_a_name_without_a_number_is_none_of_a_set() -> None:
    assert ordinal_of("chat-eu-12") == 12
    with pytest.raises(ValueError, match="invalid literal"):
        ordinal_of("chat")


def test_a_size_that_the_kubelet_has_not_looked_at_is_under_way(recorded: Recorded) -> None:
    raw = recorded("pod-infeasible")
    raw["status"]["conditions"] = []
    raw["metadata"]["generation"], raw["status"]["observedGeneration"] = 3, 2
    pod = pod_state(raw)
    assert pod.resize is not None
    assert pod.resize.reason == "InProgress"
    assert pod.resize.since_s > epoch_s("2999-01-01T00:00:00Z"), "no deadline runs"
    raw["status"]["observedGeneration"] = 3
    assert pod_state(raw).resize is None


def test_the_cpu_that_is_asked_for_and_that_there_is(recorded: Recorded) -> None:
    raw = recorded("pod-infeasible")
    raw["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2"
    pod = pod_state(raw)
    assert (pod.wanted_cpu, pod.cpu) == (2000, 100)
    del raw["spec"]["containers"][0]["resources"]["requests"]
    assert pod_state(raw).wanted_cpu is None


def test_the_class_of_claims_to_come(recorded: Recorded) -> None:
    raw = recorded("statefulset")
    named = raw["spec"]["volumeClaimTemplates"][0]["spec"].get("storageClassName")
    assert set_state(raw).claim_class == named
    raw["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] = "other"
    assert set_state(raw).claim_class == "other"
