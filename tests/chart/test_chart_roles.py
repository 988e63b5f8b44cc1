"""What the chart's roles allow, read the way the API server's authorizer does."""

from typing import Any

import pytest

NAMESPACED = {
    ("kvtide.dev", "tieredcaches"): {"get", "list", "watch"},
    ("kvtide.dev", "tieredcaches/status"): {"patch"},
    ("kvtide.dev", "cacheplans"): {"get", "list", "watch", "create", "patch", "delete"},
    ("kvtide.dev", "cacheplans/status"): {"patch"},
    ("apps", "statefulsets"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "services"): {"get", "list", "watch", "create", "patch"},
    ("", "configmaps"): {"get", "list", "watch", "create", "patch"},
    ("policy", "poddisruptionbudgets"): {"get", "list", "watch", "create", "patch"},
    ("networking.k8s.io", "networkpolicies"): {"get", "list", "watch", "create", "patch"},
    ("monitoring.coreos.com", "servicemonitors"): {"get", "list", "watch", "create", "patch"},
    ("", "pods"): {"get", "list", "watch", "patch", "delete"},
    ("", "pods/resize"): {"patch"},
    ("", "persistentvolumeclaims"): {"get", "list", "watch", "patch", "delete"},
    ("", "secrets"): {"get", "create"},
    ("", "events"): {"get", "list", "create", "patch"},
}
CLUSTER = {
    ("kvtide.dev", "tierclasses"): {"get", "list", "watch"},
    ("storage.k8s.io", "storageclasses"): {"get", "list", "watch"},
    ("coordination.k8s.io", "leases"): {"get"},
}
LEASES = {("coordination.k8s.io", "leases"): {"create", "get", "update"}}

Rights = dict[tuple[str, str], set[str]]


def rights_of(rules: list[dict[str, Any]]) -> Rights:
    rights: Rights = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                rights.setdefault((group, resource), set()).update(rule["verbs"])
    return rights


def bound(objects: dict[str, Any], account: str, namespace: str) -> dict[str, Rights]:
    """The rights of a ServiceAccount by namespace; those in all of them under the empty name."""
    given: dict[str, Rights] = {}
    for each in objects.values():
        if each["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if {"kind": "ServiceAccount", "name": account, "namespace": namespace} not in each["subjects"]:
            continue
        where = each["metadata"].get("namespace", "")
        reference = each["roleRef"]
        role_namespace = where if reference["kind"] == "Role" else ""
        role = objects[f"{reference['kind']}/{role_namespace}/{reference['name']}"]
        for key, verbs in rights_of(role["rules"]).items():
            given.setdefault(where, {}).setdefault(key, set()).update(verbs)
    return given


def test_all_namespaces(render) -> None:
    given = bound(render({"watchAllNamespaces": True}), "kvtide", "kvtide-system")
    assert given == {"": NAMESPACED | CLUSTER, "kvtide-system": LEASES}


def test_the_own_namespace_alone_unless_others_are_named(render) -> None:
    given = bound(render(), "kvtide", "kvtide-system")
    assert given == {"": CLUSTER, "kvtide-system": NAMESPACED | LEASES}


def test_some_namespaces(render) -> None:
    given = bound(render({"watchNamespaces": ["a", "b"]}), "kvtide", "kvtide-system")
    assert given == {
        "": CLUSTER,
        "a": NAMESPACED,
        "b": NAMESPACED,
        "kvtide-system": LEASES,
    }


def test_the_own_namespace_may_be_watched_too(render) -> None:
    given = bound(render({"watchNamespaces": ["kvtide-system"]}), "kvtide", "kvtide-system")
    assert given["kvtide-system"] == NAMESPACED | LEASES


def test_only_the_own_lease_can_be_taken(render) -> None:
    rules = render()["Role/kvtide-system/kvtide-leader"]["rules"]
    (taking,) = [rule for rule in rules if "update" in rule["verbs"]]
    assert taking["resourceNames"] == ["kvtide-operator"]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a"]}, {"watchAllNamespaces": True}])
def test_nothing_is_allowed_by_a_wildcard_or_escalates(render, values) -> None:
    for each in render(values).values():
        for rule in each.get("rules", []):
            assert not any("*" in part for part in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]))
            assert not set(rule["verbs"]) & {"escalate", "bind", "impersonate"}


def test_people(render) -> None:
    objects = render()
    approver = rights_of(objects["ClusterRole//kvtide-approver"]["rules"])
    assert approver == {("kvtide.dev", "cacheplans"): {"get", "list", "watch", "patch"}}
    edit = rights_of(objects["ClusterRole//kvtide-edit"]["rules"])
    assert ("kvtide.dev", "cacheplans") not in edit
    view = rights_of(objects["ClusterRole//kvtide-view"]["rules"])
    assert all(verbs == {"get", "list", "watch"} for verbs in view.values())


def test_rights_and_account_of_others(render) -> None:
    objects = render({"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}})
    assert not any(name.startswith(("Role", "ClusterRole", "ServiceAccount")) for name in objects)
    spec = objects["Deployment/kvtide-system/kvtide"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "mine"
