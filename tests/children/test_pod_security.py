"""Pods under Pod Security *restricted*, by a checker written from the standard, not from our manifests."""

from typing import Any

import pytest

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
    "secret",
}  # fmt: skip


def violations(spec: dict[str, Any]) -> list[str]:
    pod = spec.get("securityContext", {})
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES]
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("privileged"):
            found.append("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation is not false")
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            found.append("runAsNonRoot is not true")
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            found.append("runAsUser is 0")
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in (
            "RuntimeDefault",
            "Localhost",
        ):
            found.append("no seccomp profile")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {
            "NET_BIND_SERVICE"
        }:
            found.append("capabilities are not dropped")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append("hostPort")
    return found


def template_of(objects: dict[str, Any]) -> dict[str, Any]:
    return objects["StatefulSet/chat"]["spec"]["template"]


def test_every_shape_of_pod_is_restricted(make_cache, objects_of, ssd_class, ssd, security) -> None:
    cache = make_cache(ssd=ssd, security=security)
    spec = template_of(objects_of(cache, claim_bytes=20 << 30 if ssd else None, tier_class=ssd_class()))[
        "spec"
    ]
    assert violations(spec) == []


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("pod", {"hostNetwork": True}),
        ("pod", {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}),
        ("pod", {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 10001}}),
        ("pod", {"securityContext": {"runAsNonRoot": True, "runAsUser": 10001}}),
        ("container", {"ports": [{"containerPort": 6379, "hostPort": 6379}]}),
        ("security", {"privileged": True}),
        ("security", {"allowPrivilegeEscalation": None}),
        ("security", {"runAsUser": 0}),
        ("security", {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}),
        ("security", {"capabilities": {}}),
    ],
)
def test_the_checker_finds_each_violation(make_cache, objects_of, where, change) -> None:
    spec = template_of(objects_of(make_cache()))["spec"]
    container = spec["containers"][0]
    place = {"pod": spec, "container": container, "security": container["securityContext"]}[where]
    place.update(change)
    assert len(violations(spec)) == 1


def test_nothing_is_writable_but_what_the_node_keeps(
    make_cache, objects_of, ssd_class, ssd, security
) -> None:
    cache = make_cache(ssd=ssd, security=security)
    container = template_of(objects_of(cache, claim_bytes=1 << 30 if ssd else None))["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == ({"/ssd"} if ssd else {"/state"})


@pytest.mark.parametrize("cpu", ["500m", "2", "0.25"])
def test_burstable_with_memory_request_as_limit_and_no_cpu_limit(make_cache, objects_of, cpu) -> None:
    cache = make_cache(nodes={"template": {"cpu": cpu}})
    resources = template_of(objects_of(cache))["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "1536Mi"
    assert "cpu" not in resources["limits"]
    assert resources["requests"]["cpu"] == {"500m": "500m", "2": "2", "0.25": "250m"}[cpu]
