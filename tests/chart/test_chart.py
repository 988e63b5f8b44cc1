"""The chart: what it renders, what it refuses, and what its roles allow."""

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kvtide_operator.act.kubernetes.children.network_policy import network_policy
from kvtide_operator.api.base import Metadata
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.main import main
from kvtide_operator.reconcile.declared import PROFILES

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "kvtide"
EVERYTHING = {
    "watchNamespaces": ["team-a", "team-b"],
    "image": {"digest": "sha256:" + "a" * 64, "pullPolicy": "Never"},
    "imagePullSecrets": [{"name": "pull"}],
    "podLabels": {"team": "ml", "app.kubernetes.io/name": "mine"},
    "podAnnotations": {"note": "yes"},
    "nodeSelector": {"disk": "nvme"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "env": [{"name": "AWS_REGION", "value": "eu-west-1"}],
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "15s"}},
    "networkPolicy": {"enabled": True},
    "serviceAccount": {"annotations": {"role": "r"}},
    "logFormat": "text",
    "allowed": {"history": ["s3://bucket"], "prometheus": ["http://prometheus:9090"]},
}


def test_lint(run_helm) -> None:
    for values in ({}, EVERYTHING):
        made = run_helm("lint", str(CHART), "--strict", values=values)
        assert made.returncode == 0, made.stdout + made.stderr


def test_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version


def test_crds_are_those_of_the_models_and_stay() -> None:
    made = {file.name: file.read_bytes() for file in (ROOT / "crds").glob("*.yaml")}
    copies = {file.name: file.read_bytes() for file in (CHART / "files" / "crds").glob("*.yaml")}
    assert copies == made, "run: cp crds/*.yaml charts/kvtide/files/crds/"


def test_installed_crds_differ_by_the_annotation_that_keeps_them(render) -> None:
    objects = render()
    for file in (ROOT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(file.read_text())
        installed = objects[f"CustomResourceDefinition//{crd['metadata']['name']}"]
        assert installed["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
        crd["metadata"].pop("annotations", None)
        assert installed == crd
    assert not any("CustomResource" in name for name in render({"crds": {"install": False}}))


def test_defaults_of_the_values_are_in_the_schema_and_the_other_way_round() -> None:
    def names(schema: dict[str, Any]) -> dict[str, Any] | None:
        if schema.get("additionalProperties") is not False or "properties" not in schema:
            return None
        return {name: names(below) for name, below in schema["properties"].items() if name != "global"}

    def check(schema: dict[str, Any] | None, values: Any, path: str) -> None:
        if schema is not None:
            assert set(schema) == set(values), path
            for name, below in schema.items():
                check(below, values[name], f"{path}.{name}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    check(names(json.loads((CHART / "values.schema.json").read_text())), values, "values")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 11}, "replicas"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
        ({"crds": {"instal": False}}, "instal"),
        ({"resources": {"limit": {}}}, "limit"),
        ({"logFormat": "xml"}, "logFormat"),
        ({"metrics": {"serviceMonitor": {"enable": True}}}, "enable"),
        ({"metrics": {"serviceMonitor": {"interval": "30 s"}}}, "interval"),
        ({"env": [{"nam": "A"}]}, "nam"),
        ({"serviceAccount": {"annotations": {"a": 1}}}, "annotations"),
        ({"rbac": {"create": "no"}}, "create"),
        ({"fullnameOverride": "My Operator"}, "fullnameOverride"),
        ({"fullnameOverride": "-a"}, "fullnameOverride"),
        ({"nameOverride": "Kv_Tide"}, "nameOverride"),
        ({"watchAllNamespaces": "yes"}, "watchAllNamespaces"),
        ({"watchAllNamespaces": True, "watchNamespaces": ["a"]}, "leave one of them out"),
        ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
        ({"resources": {"limits": {"memory": "-1Gi"}}}, "memory"),
        ({"resources": {"limits": {"memory": "100Mi"}}}, "give at least 512Mi"),
        ({"resources": {"limits": {"memory": 600}}}, "give at least 512Mi"),
        ({"resources": {"limits": {"memory": "1500m"}}}, "give at least 512Mi"),
        ({"resources": {"requests": {"memory": "3Gi"}}}, "resources.requests.memory 3Gi is more than"),
        ({"resources": {"limits": {"cpu": "50m"}}}, "resources.requests.cpu 100m is more than"),
    ],
)
def test_wrong_values_are_refused_by_name(run_helm, values, named) -> None:
    made = run_helm("template", "kvtide", str(CHART), values=values)
    assert made.returncode != 0
    assert named in made.stderr


def pod_of(objects: dict[str, Any]) -> dict[str, Any]:
    return objects["Deployment/kvtide-system/kvtide"]["spec"]["template"]


def test_the_operator_takes_its_arguments(render) -> None:
    for values in ({}, EVERYTHING):
        arguments = pod_of(render(values))["spec"]["containers"][0]["args"]
        context = click.Context(main)
        main.parse_args(context, [text.replace("$(POD_IP)", "fd00::7") for text in arguments])
        assert context.params["metrics"] == ("fd00::7", 8080)
        assert context.params["probes"] == ("fd00::7", 8081)
        assert context.params["namespaces"] == tuple(values.get("watchNamespaces", ("kvtide-system",)))
        assert context.params["identity"] == "$(POD_NAME)"


def test_all_namespaces_are_looked_after_where_that_is_asked_for(render) -> None:
    arguments = pod_of(render({"watchAllNamespaces": True}))["spec"]["containers"][0]["args"]
    assert not [one for one in arguments if one.startswith("--namespace")]


@pytest.mark.parametrize("memory", ["2G", "1.5Gi", 2147483648, "1147483648"])
def test_sizes_of_every_spelling_are_taken(render, memory) -> None:
    spec = pod_of(render({"resources": {"limits": {"memory": memory}}}))["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"memory": memory}


def test_the_chart_and_the_documents_ask_for_the_same_kubernetes() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    asked = chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0")
    for page in ("README.md", "docs/kubernetes.md"):
        assert f"Kubernetes {asked} or newer" in (ROOT / page).read_text()


def test_everything_a_user_sets_arrives(render) -> None:
    objects = render(EVERYTHING)
    template = pod_of(objects)
    spec = template["spec"]
    assert spec["containers"][0]["image"] == f"kvtide/operator@{EVERYTHING['image']['digest']}"
    same = [
        "imagePullSecrets",
        "nodeSelector",
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "priorityClassName",
    ]
    assert {name: spec[name] for name in same} == {name: EVERYTHING[name] for name in same}
    assert EVERYTHING["env"][0] in spec["containers"][0]["env"]
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"] == {"note": "yes"}
    monitor = objects["ServiceMonitor/kvtide-system/kvtide"]
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["endpoints"][0]["interval"] == "15s"
    assert objects["ServiceAccount/kvtide-system/kvtide"]["metadata"]["annotations"] == {"role": "r"}


def test_selectors_select_the_pods_and_ports_exist(render) -> None:
    objects = render(EVERYTHING)
    template = pod_of(objects)
    labels = template["metadata"]["labels"]
    service = objects["Service/kvtide-system/kvtide-metrics"]
    monitor = objects["ServiceMonitor/kvtide-system/kvtide"]
    selectors = [
        objects["Deployment/kvtide-system/kvtide"]["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        objects["PodDisruptionBudget/kvtide-system/kvtide"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy/kvtide-system/kvtide"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {service["spec"]["ports"][0]["targetPort"], "probes"} == ports


def test_the_nodes_network_policy_lets_this_operator_in(render) -> None:
    cache = TieredCache.model_construct(metadata=Metadata(name="chat", namespace="serving"))
    admin = network_policy(cache, "uid", "kvtide-system")["spec"]["ingress"][1]["from"][0]
    assert admin["podSelector"]["matchLabels"].items() <= pod_of(render())["metadata"]["labels"].items()
    assert admin["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kvtide-system"}


def test_the_pod_is_restricted(render) -> None:
    spec = pod_of(render())["spec"]
    pod, (container,) = spec["securityContext"], spec["containers"]
    own = container["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) - {"name"} for volume in spec["volumes"]] == [{"emptyDir"}]


def test_names_keep_two_releases_apart(render) -> None:
    one, other = render(release="kvtide"), render({"crds": {"install": False}}, release="blue")
    assert not set(one) & set(other)


def test_engine_profiles_are_mounted_where_caches_name_them(render) -> None:
    objects = render({"engineProfiles": {"configMap": "tables"}})
    pod = objects["Deployment/kvtide-system/kvtide"]["spec"]["template"]["spec"]
    (volume,) = [one for one in pod["volumes"] if "configMap" in one]
    assert volume["configMap"] == {"name": "tables"}
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == (str(PROFILES), True)
