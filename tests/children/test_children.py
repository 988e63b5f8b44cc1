"""The objects of a cache: they fit each other, the node's own command line, and what users said."""

import click
import pytest

from kvtide_cachenode.cli import serve
from kvtide_operator.act.kubernetes.children import admin_secret, children

GIB = 1 << 30


def arguments_of(objects) -> list[str]:
    return objects["StatefulSet/chat"]["spec"]["template"]["spec"]["containers"][0]["args"]


def test_kinds_and_names_are_the_documented_ones(make_cache, objects_of) -> None:
    assert list(objects_of(make_cache())) == [
        "NetworkPolicy/chat",
        "PodDisruptionBudget/chat",
        "Service/chat-peers",
        "Service/chat",
        "ConfigMap/chat-connection",
        "ServiceMonitor/chat",
        "StatefulSet/chat",
    ]


def test_every_object_is_owned_labelled_and_in_the_namespace(make_cache, objects_of) -> None:
    objects = objects_of(make_cache())
    secret = admin_secret(make_cache(), "0b6c", "s3cret")
    for each in [*objects.values(), secret]:
        owner = each["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("TieredCache", "chat", True)
        assert owner["blockOwnerDeletion"] is False  # else creating needs a right on finalizers
        assert each["metadata"]["namespace"] == "serving"
        assert each["metadata"]["labels"] == {
            "app.kubernetes.io/name": "kvtide-cachenode",
            "app.kubernetes.io/instance": "chat",
            "app.kubernetes.io/managed-by": "kvtide",
            "kvtide.dev/cache": "chat",
        }


def test_without_a_set_or_the_monitor_kind_the_rest_remains(make_cache) -> None:
    made = children(
        make_cache(), "u", None, ssd_class=None, operator_namespace="ops", has_service_monitors=False
    )
    assert {each["kind"] for each in made} == {
        "NetworkPolicy", "PodDisruptionBudget", "Service", "ConfigMap",
    }  # fmt: skip


def test_selectors_select_the_pods(make_cache, objects_of) -> None:
    objects = objects_of(make_cache(nodes={"template": {"labels": {"team": "a"}}}))
    pod = objects["StatefulSet/chat"]["spec"]["template"]["metadata"]["labels"]
    assert pod["team"] == "a"
    selectors = [
        objects["StatefulSet/chat"]["spec"]["selector"]["matchLabels"],
        objects["Service/chat"]["spec"]["selector"],
        objects["Service/chat-peers"]["spec"]["selector"],
        objects["PodDisruptionBudget/chat"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy/chat"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= pod.items() for selector in selectors)


def test_ports_and_mounts_and_volumes_fit(make_cache, objects_of, ssd, security) -> None:
    objects = objects_of(make_cache(ssd=ssd, security=security), claim_bytes=GIB if ssd else None)
    spec = objects["StatefulSet/chat"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    named = {
        port["targetPort"]
        for name in ("chat", "chat-peers")
        for port in objects[f"Service/{name}"]["spec"]["ports"]
    }
    allowed = {
        port["port"] for rule in objects["NetworkPolicy/chat"]["spec"]["ingress"] for port in rule["ports"]
    }
    assert named == allowed == ports
    volumes = {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes | claims
    assert spec["serviceName"] == "chat-peers"


def test_files_of_the_arguments_are_mounted_from_the_named_secrets(
    make_cache, objects_of, ssd, security
) -> None:
    objects = objects_of(make_cache(ssd=ssd, security=security), claim_bytes=GIB if ssd else None)
    pod = objects["StatefulSet/chat"]["spec"]["template"]["spec"]
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    files = {
        f"{mount['mountPath']}/{item['path']}"
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] in secrets
        for item in secrets[mount["name"]]["items"]
    }
    named = {
        text.split("=")[1]
        for text in arguments_of(objects)
        if text.startswith(("--tls", "--password", "--admin-t"))
    }
    assert named == files
    expected = (
        {"chat-admin"}
        | ({"pw"} if "auth" in security else set())
        | ({"certs"} if "tls" in security else set())
    )
    assert {secret["secretName"] for secret in secrets.values()} == expected


def test_the_node_takes_the_arguments(make_cache, objects_of, ssd_class, ssd, security) -> None:
    cache = make_cache(ssd=ssd, security=security)
    tier_class = ssd_class(endurance={"writesPerDay": "3Ti"})
    objects = objects_of(cache, claim_bytes=GIB if ssd else None, tier_class=tier_class)
    arguments = [text.replace("$(POD_IP)", "fd00::7") for text in arguments_of(objects)]
    assert arguments[0] == "serve"
    context = click.Context(serve)
    serve.parse_args(context, arguments[1:])
    assert context.params["listen"] == ("fd00::7", 6379)
    assert context.params["admin"] == ("fd00::7", 7379)
    assert context.params["block_tokens"] == 256
    assert context.params["ssd"] == (0 if ssd else None)
    assert context.params["ssd_writes_per_day"] == (3 << 40 if ssd else None)
    assert (context.params["tls_client_ca"] is not None) == (
        security.get("tls", {}).get("clients") == "Required"
    )


@pytest.mark.parametrize("admission", ["Always", "SecondTouch", "ReusedOnly"])
def test_write_admission_is_one_the_node_knows(make_cache, objects_of, admission) -> None:
    tiers = [
        *make_cache().model_dump(mode="json", by_alias=True)["spec"]["tiers"],
        {
            "name": "ssd",
            "medium": "SSD",
            "classes": ["essd"],
            "capacity": {"initial": "0", "min": "0", "max": "1Ti"},
            "admission": admission,
        },
    ]
    objects = objects_of(make_cache(tiers=tiers), claim_bytes=GIB)
    context = click.Context(serve)
    serve.parse_args(context, [t.replace("$(POD_IP)", "10.0.0.1") for t in arguments_of(objects)][1:])
    assert context.params["ssd_admission"].lower() == admission.lower()


def test_probes_ask_who_can_answer(make_cache, objects_of, security) -> None:
    container = objects_of(make_cache(security=security))["StatefulSet/chat"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    ready = container["readinessProbe"]
    tls = security.get("tls")
    if tls and tls.get("clients") == "Required":
        assert ready["tcpSocket"] == {"port": "resp"}
    else:
        assert ready["httpGet"] == {"path": "/readyz", "port": "admin", "scheme": "HTTPS" if tls else "HTTP"}
    assert set(container) >= {"startupProbe", "livenessProbe"}


def test_claims_have_the_class_and_the_size(make_cache, objects_of, ssd_class) -> None:
    objects = objects_of(make_cache(ssd=True), claim_bytes=20 * GIB, tier_class=ssd_class())
    (claim,) = objects["StatefulSet/chat"]["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "ssd"
    assert claim["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kvtide"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "20Gi"}},
        "storageClassName": "essd-pl1",
    }


def test_a_set_never_restarts_pods_and_its_claims_go_with_it(make_cache, objects_of) -> None:
    spec = objects_of(make_cache())["StatefulSet/chat"]["spec"]
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Delete"}
    policies = {
        each["resourceName"]: each["restartPolicy"]
        for each in spec["template"]["spec"]["containers"][0]["resizePolicy"]
    }
    assert policies == {"cpu": "NotRequired", "memory": "NotRequired"}


def test_users_template_arrives(make_cache, objects_of) -> None:
    template = {
        "image": "registry.example/node:9",
        "imagePullPolicy": "Never",
        "imagePullSecrets": [{"name": "pull"}],
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "priorityClassName": "high",
        "serviceAccountName": "nodes",
        "runtimeClassName": "kata",
        "terminationGracePeriod": "90s",
    }
    made = objects_of(make_cache(nodes={"template": template}))["StatefulSet/chat"]["spec"]["template"]
    spec = made["spec"]
    container = spec["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example/node:9", "Never")
    assert spec["terminationGracePeriodSeconds"] == 90
    same = [
        "imagePullSecrets", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints",
        "priorityClassName", "serviceAccountName", "runtimeClassName",
    ]  # fmt: skip
    assert {name: spec[name] for name in same} == {name: template[name] for name in same}
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"]["note"] == "b"


def test_network_policy_lets_in_whom_it_names(make_cache, objects_of) -> None:
    data, admin = objects_of(make_cache())["NetworkPolicy/chat"]["spec"]["ingress"]
    assert data["from"] == [{"podSelector": {}}]
    namespaces = [peer["namespaceSelector"].get("matchLabels") for peer in admin["from"]]
    assert namespaces == [{"kubernetes.io/metadata.name": "kvtide-system"}, None]
    assert all(peer["podSelector"]["matchLabels"] for peer in admin["from"])


def test_service_monitor_verifies_and_shows_certificates_as_far_as_there_are_any(
    make_cache, objects_of, security
) -> None:
    (endpoint,) = objects_of(make_cache(security=security))["ServiceMonitor/chat"]["spec"]["endpoints"]
    config = endpoint.get("tlsConfig")
    assert (endpoint.get("scheme") == "https") == (config is not None) == ("tls" in security)
    if config is not None:
        assert "insecureSkipVerify" not in config
        assert config["serverName"] == "chat.serving.svc"
        assert ("cert" in config) == (security["tls"].get("clients") == "Required")


def test_a_service_monitor_has_the_labels_that_its_prometheus_selects_by(make_cache, objects_of) -> None:
    asked = {"release": "prometheus", "app.kubernetes.io/instance": "mine"}
    monitor = objects_of(make_cache(nodes={"serviceMonitor": {"labels": asked}}))["ServiceMonitor/chat"]
    labels = monitor["metadata"]["labels"]
    assert labels["release"] == "prometheus"
    assert labels["app.kubernetes.io/instance"] == "chat"
