"""Compare, then write: against an object that a real API server filled in."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_operator.act.kubernetes.compare import differs

Recorded = Callable[[str], dict[str, Any]]
LABELS = {"kvtide.dev/cache": "chat", "app.kubernetes.io/name": "kvtide-cachenode"}


def applied() -> dict[str, Any]:
    """The manifest that the recorded StatefulSet was made from."""
    container = {
        "name": "node",
        "image": "localhost/kvtide/cachenode:e2e",
        "imagePullPolicy": "Never",
        "args": ["serve", "--listen", "0.0.0.0:6379", "--admin", "0.0.0.0:7379", "--dram", "64Mi",
                 "--state-dir", "/state"],
        "ports": [{"name": "resp", "containerPort": 6379}, {"name": "admin", "containerPort": 7379}],
        "env": [{"name": "A", "value": "b"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 7379}, "periodSeconds": 1},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}],
        "resources": {"requests": {"cpu": "0.1", "memory": "0.25Gi"}, "limits": {"memory": "0.25Gi"}},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}, {"name": "ssd", "mountPath": "/ssd"}],
    }  # fmt: skip
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "ssd", "labels": LABELS},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "300Mi"}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": "chat", "namespace": "f-process", "labels": LABELS,
            "annotations": {"kvtide.dev/template-hash": "abc"},
        },
        "spec": {
            "serviceName": "chat-peers",
            "replicas": 1,
            "updateStrategy": {"type": "OnDelete"},
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": LABELS},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
            "template": {
                "metadata": {"labels": LABELS, "annotations": {"kvtide.dev/template-hash": "abc"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": {"fsGroup": 10001},
                    "containers": [container],
                    "volumes": [{"name": "state", "emptyDir": {"sizeLimit": "64Mi"}}],
                },
            },
            "volumeClaimTemplates": [claim],
        },
    }  # fmt: skip


def at(manifest: dict[str, Any], *path: str | int) -> Any:
    found: Any = manifest
    for part in path:
        found = found[part]
    return found


NODE = ("spec", "template", "spec", "containers", 0)


def test_what_was_applied_is_not_applied_again(recorded: Recorded) -> None:
    assert not differs(applied(), recorded("statefulset"), "kvtide")


def test_what_was_never_applied_differs() -> None:
    assert differs(applied(), {"metadata": {}}, "kvtide")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicas"), 2),
        ((*NODE, "image"), "localhost/kvtide/cachenode:next"),
        ((*NODE, "resources", "limits", "memory"), "257Mi"),
        ((*NODE, "resources", "requests", "cpu"), "101m"),
        ((*NODE, "args", 6), "--state"),
        ((*NODE, "ports", 1, "containerPort"), 7380),
        ((*NODE, "env", 0, "value"), "c"),
        ((*NODE, "volumeMounts", 1, "mountPath"), "/data"),
        (("spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage"), "301Mi"),
        (("metadata", "labels", "kvtide.dev/cache"), "other"),
        (("metadata", "annotations", "new"), "x"),
        (("spec", "template", "spec", "volumes", 0, "emptyDir"), {"sizeLimit": "65Mi"}),
        (("spec", "updateStrategy", "type"), "RollingUpdate"),
    ],
)
def test_every_change_of_the_manifest_is_seen(
    recorded: Recorded, path: tuple[str | int, ...], value: object
) -> None:
    manifest = copy.deepcopy(applied())
    at(manifest, *path[:-1])[path[-1]] = value
    assert differs(manifest, recorded("statefulset"), "kvtide")


@pytest.mark.parametrize(
    "path",
    [
        (*NODE, "env"),
        (*NODE, "ports", 1),
        (*NODE, "resources", "limits", "memory"),
        (*NODE, "readinessProbe"),
        ("metadata", "annotations", "kvtide.dev/template-hash"),
        ("spec", "template", "spec", "terminationGracePeriodSeconds"),
        ("spec", "template", "spec", "securityContext", "fsGroup"),
    ],
)
def test_what_we_stop_saying_is_taken_back(recorded: Recorded, path: tuple[str | int, ...]) -> None:
    manifest = copy.deepcopy(applied())
    del at(manifest, *path[:-1])[path[-1]]
    assert differs(manifest, recorded("statefulset"), "kvtide")


def test_what_others_add_is_theirs(recorded: Recorded) -> None:
    live = recorded("statefulset")
    live["metadata"]["annotations"]["theirs"] = "x"
    at(live, *NODE)["env"].append({"name": "INJECTED", "value": "1"})
    live["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"})
    assert not differs(applied(), live, "kvtide")


def test_what_others_change_of_ours_is_put_right(recorded: Recorded) -> None:
    live = recorded("statefulset")
    live["spec"]["replicas"] = 7
    assert differs(applied(), live, "kvtide")


@settings(max_examples=50)
@given(st.integers(1, 2**40))
def test_a_quantity_is_the_same_however_it_is_written(amount: int) -> None:
    live = {"spec": {"resources": {"limits": {"memory": f"{amount}Ki"}}}}
    for text in (f"{amount}Ki", str(amount * 1024), f"{amount * 1024_000}m"):
        wanted = {"spec": {"resources": {"limits": {"memory": text}}}}
        assert not differs(wanted, live, "kvtide")
    wanted = {"spec": {"resources": {"limits": {"memory": f"{amount + 1}Ki"}}}}
    assert differs(wanted, live, "kvtide")


def test_a_number_that_is_no_quantity_is_compared_as_it_is() -> None:
    assert differs({"data": {"ttl": "1k"}}, {"data": {"ttl": "1000"}}, "kvtide")
