"""What keeps pods from being made or run is said in the words of Kubernetes; what is another's is let be."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.process.turn import KEY, Turn

from kvtide_operator.observe.troubles import event_trouble, pod_trouble
from kvtide_operator.reconcile import troubles

IMAGE = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "no/such"'}
CRASH = {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}
ENDED = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
FULL = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are free"}


def waiting(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "node", "state": {"waiting": state}, **more}]}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, None),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, None),
        (waiting({"reason": "ContainerCreating"}), None),
        (waiting({}), None),
        ({"containerStatuses": [{"name": "node", "state": {"running": {}}}]}, None),
        ({"conditions": [FULL]}, "Unschedulable: 0/1 nodes are free"),
        (waiting(IMAGE), 'ImagePullBackOff: Back-off pulling image "no/such"'),
        (
            waiting(CRASH, lastState=ENDED),
            "CrashLoopBackOff: its container ended with OOMKilled, exit code 137",
        ),
        (
            {"containerStatuses": [{"name": "node", "state": ENDED}]},
            "its container ended with OOMKilled, exit code 137",
        ),
        (
            {"initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}]},
            None,
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted: low on disk"),
    ],
)
def test_a_pods_own_reason(status: dict[str, Any], said: str | None) -> None:
    assert pod_trouble(status) == said


def event(message: str, at: str, reason: str = "FailedCreate", kind: str = "Warning") -> dict[str, Any]:
    return {"type": kind, "reason": reason, "message": message, "lastTimestamp": at}


def test_the_newest_event_of_a_pod_that_was_not_made() -> None:
    stem = "create Pod chat-1 in StatefulSet chat failed error: "
    events = [
        event(f'{stem}pods "chat-1" is forbidden: exceeded quota', "2026-01-01T00:00:09Z"),
        event(f"{stem}older", "2026-01-01T00:00:01Z"),
        event("create Pod chat-10 in StatefulSet chat failed error: another", "2026-01-01T00:00:10Z"),
        event("create Pod chat-1 in StatefulSet chat successful", "2026-01-01T00:00:11Z", kind="Normal"),
    ]
    assert event_trouble(events, pod="chat-1") == 'FailedCreate: pods "chat-1" is forbidden: exceeded quota'
    assert event_trouble(events, pod="chat-2") is None
    mount = event('secret "no-such" not found', "2026-01-01T00:00:09Z", "FailedMount")
    assert event_trouble([mount]) == 'FailedMount: secret "no-such" not found'


def foreign(plural: str, name: str) -> dict[str, Any]:
    kind = {"pods": "Pod", "persistentvolumeclaims": "PersistentVolumeClaim"}[plural]
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": KEY.namespace, "labels": {"kvtide.dev/cache": "chat"}},
        "spec": {"theirs": True},
    }


def conditions(server: Any, name: str = KEY.name) -> dict[str, Any]:
    (cache,) = [one for one in server.of("tieredcaches") if one["metadata"]["name"] == name]
    return {one["type"]: one for one in cache["status"]["conditions"]}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is found lasts long enough to be told, and is looked at at every pass."""
    monkeypatch.setattr(troubles, "LASTS_S", 0.0)
    monkeypatch.setattr(troubles, "REREAD_S", 0.0)


SSD: dict[str, Any] = {
    "name": "ssd",
    "medium": "SSD",
    "classes": ["nvme"],
    "ttl": {"max": "1h"},
    "capacity": {"initial": "1Gi", "min": "1Gi", "max": "2Gi"},
}
SSD_CLASS = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TierClass",
    "metadata": {"name": "nvme"},
    "spec": {
        "medium": "SSD",
        "price": {"currency": "USD", "capacity": [{"perGiBHour": "0.0003"}]},
        "speed": {
            "read": {"base": "500M"},
            "write": {"base": "500M"},
            "sharedChannel": True,
            "latency": "1ms",
        },
        "volume": {"min": "1Gi", "max": "10Gi", "step": "1Gi"},
    },
}


@pytest.mark.parametrize("plural", ["pods", "persistentvolumeclaims"])
async def test_no_set_is_made_that_would_take_over_or_mount_what_is_anothers(
    server: Any, new_turn: Callable[..., Turn], plural: str
) -> None:
    turn = new_turn(tiers=[SSD], classes=[SSD_CLASS])
    name = {"pods": "chat-0", "persistentvolumeclaims": "ssd-chat-0"}[plural]
    before = server.put(plural, foreign(plural, name))
    for _ in range(3):
        await turn.take()
    assert not server.of("statefulsets")
    assert server.of(plural) == [before]
    assert turn.stalled()["status"] == "True"
    assert f"{before['kind']} {name} was there before" in turn.stalled()["message"]
    assert len([said for said in turn.warnings() if name in said]) == 1
    del server.objects[plural, KEY.namespace, name]
    await turn.take()
    assert len(server.of("statefulsets")) == 1
    assert turn.stalled()["status"] == "False"


async def test_no_replica_is_added_that_would_mount_what_is_anothers(
    server: Any, new_turn: Callable[..., Turn]
) -> None:
    turn = new_turn(tiers=[SSD], classes=[SSD_CLASS])
    await turn.take()
    before = server.put("persistentvolumeclaims", foreign("persistentvolumeclaims", "ssd-chat-1"))
    turn.edit({"nodes": {"replicas": {"min": 2}}})
    await turn.take()
    (made,) = server.of("statefulsets")
    assert made["spec"]["replicas"] == 1
    assert "ssd-chat-1 was there before" in turn.stalled()["message"]
    assert server.of("persistentvolumeclaims") == [before]


async def test_why_the_set_makes_no_pod_is_said_once(
    server: Any, new_turn: Callable[..., Turn], now: None
) -> None:
    turn = new_turn()
    await turn.take()
    (made,) = server.of("statefulsets")
    why = 'pods "chat-0" is forbidden: no PriorityClass with name no-such was found'
    said = event(f"create Pod chat-0 in StatefulSet chat failed error: {why}", "2026-01-01T00:00:09Z")
    metadata = {"name": "of-the-set", "namespace": KEY.namespace}
    about = {"involvedObject": {"uid": made["metadata"]["uid"]}}
    server.put("events", {"apiVersion": "v1", "kind": "Event", "metadata": metadata, **about, **said})
    for _ in range(3):
        await turn.take()
    ready, stalled = conditions(server)["Ready"], conditions(server)["Stalled"]
    assert ready["message"] == f"0 of 1 nodes are ready: waits for chat-0 (FailedCreate: {why})"
    assert (stalled["status"], stalled["message"]) == ("True", f"chat-0: FailedCreate: {why}")
    about_us = [one for one in turn.warnings() if one.startswith("chat-0: ")]
    assert about_us == [f"chat-0: FailedCreate: {why}"]
    turn.store.put(turn.pod_kind, server.put("pods", turn.pod("chat-0", made)))
    await turn.take()
    assert conditions(server)["Stalled"]["status"] == "False"


async def test_why_a_pod_does_not_run_is_said_once_however_the_kubelet_words_it(
    server: Any, new_turn: Callable[..., Turn], now: None
) -> None:
    turn = new_turn()
    await turn.take()
    (made,) = server.of("statefulsets")
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        status = waiting({"reason": reason, "message": f"{reason} no/such:1"})
        turn.store.put(turn.pod_kind, server.put("pods", turn.pod("chat-0", made, status)))
        await turn.take()
        assert f"waits for chat-0 ({reason}: {reason} no/such:1)" in conditions(server)["Ready"]["message"]
        assert conditions(server)["Stalled"]["status"] == "False"
    assert turn.warnings() == ["chat-0: ErrImagePull: ErrImagePull no/such:1"]


async def test_what_cannot_be_read_of_a_missing_pod_stops_nothing(
    server: Any, new_turn: Callable[..., Turn], now: None
) -> None:
    turn = new_turn()
    await turn.take()
    server.unknown.add("events")
    await turn.take()
    assert "what is in its way cannot be read" in conditions(server)["Ready"]["message"]
    assert turn.turns.failures == 0


async def test_caches_whose_services_have_one_name_do_not_fight(
    server: Any, new_turn: Callable[..., Turn]
) -> None:
    first, other = new_turn(name="a"), new_turn(name="a-peers")
    for _ in range(4):
        await first.take()
        await other.take()
    (service,) = [one for one in server.of("services") if one["metadata"]["name"] == "a-peers"]
    for _ in range(3):
        await first.take()
        await other.take()
    assert service in server.of("services")
    assert conditions(server, "a")["Stalled"]["status"] == "False"
    assert "Service a-peers belongs to TieredCache a" in conditions(server, "a-peers")["Stalled"]["message"]
