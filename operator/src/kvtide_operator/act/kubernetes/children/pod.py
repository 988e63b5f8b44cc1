"""The pod of a node: its container under Pod Security *restricted*, its volumes, where it may run.

Sizes are no arguments of the container, so that none restarts it: a node takes its DRAM from what was applied
last and from its cgroup's limit (``--dram=auto``), its SSD from what was applied last (``--ssd=0`` at first).
"""

import math
from typing import Final

from kvtide_operator.act.kubernetes.children.names import (
    ADMIN_PORT,
    RESP_PORT,
    Manifest,
    labels,
    selector,
)
from kvtide_operator.act.kubernetes.children.pod_files import (
    ADMIN_MOUNT,
    AUTH_MOUNT,
    SSD_MOUNT,
    STATE_DIR,
    TLS_MOUNT,
    mounts,
    volumes,
)
from kvtide_operator.act.kubernetes.children.pod_hash import template_hash
from kvtide_operator.act.node_options import ssd_options, trace_options
from kvtide_operator.api.nodes import NodeTemplate
from kvtide_operator.api.quantity import format_cpu, format_quantity, parse_cpu
from kvtide_operator.api.tierclass import TierClassSpec
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.world.kinds import NODE_CONTAINER, TEMPLATE_HASH

USER_ID: Final = 10001
# State and rotated logs.
LOCAL_DISK: Final = "128Mi"
# A log of terabytes is read at start; the admin port answers after that.
START_LIMIT_S: Final = 600


def pod_template(
    cache: TieredCache, memory_bytes: int, *, has_ssd: bool, ssd_class: TierClassSpec | None = None
) -> Manifest:
    """The template of the StatefulSet, with its hash as an annotation.

    Args:
        cache: whose nodes.
        memory_bytes: request and limit of the container.
        has_ssd: whether each pod has a volume for the SSD tier.
        ssd_class: the class of that volume.
    """
    user = cache.spec.nodes.template
    template: Manifest = {
        "metadata": {"labels": {**user.labels, **labels(cache)}, "annotations": dict(user.annotations)},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": math.ceil(user.termination_grace_period),
            "containers": [_container(cache, memory_bytes, has_ssd, ssd_class)],
            "volumes": volumes(cache, has_ssd),
            **_scheduling(cache, user),
        },
    }
    template["metadata"]["annotations"][TEMPLATE_HASH] = template_hash(template)
    return template


def wanted_hash(cache: TieredCache, *, has_ssd: bool, ssd_class: TierClassSpec | None = None) -> str:
    """The hash that every pod shall have: a pod of another one is restarted when its turn comes."""
    return template_hash(pod_template(cache, 0, has_ssd=has_ssd, ssd_class=ssd_class))


def _container(
    cache: TieredCache, memory_bytes: int, has_ssd: bool, ssd_class: TierClassSpec | None
) -> Manifest:
    user = cache.spec.nodes.template
    cpu, memory = format_cpu(parse_cpu(user.cpu)), format_quantity(memory_bytes)
    return {
        "name": NODE_CONTAINER,
        "image": user.image,
        "imagePullPolicy": user.image_pull_policy,
        "args": _arguments(cache, has_ssd, ssd_class),
        # Its own address, of whatever family the cluster has.
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [
            {"name": "resp", "containerPort": RESP_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        # No CPU limit: a throttled node holds up every engine.
        "resources": {
            "requests": {"cpu": cpu, "memory": memory, "ephemeral-storage": LOCAL_DISK},
            "limits": {"memory": memory},
        },
        "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "NotRequired"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts(cache, has_ssd),
        **_probes(cache),
    }


def _arguments(cache: TieredCache, has_ssd: bool, ssd_class: TierClassSpec | None) -> list[str]:
    arguments = [
        "serve",
        f"--listen=[$(POD_IP)]:{RESP_PORT}",
        f"--admin=[$(POD_IP)]:{ADMIN_PORT}",
        f"--admin-token-file={ADMIN_MOUNT}/token",
        "--dram=auto",
        *trace_options(cache.spec),
        "--log-format=json",
    ]
    if has_ssd:
        # Not the volume itself, whose file system may keep a lost+found there.
        arguments += ["--ssd=0", f"--ssd-path={SSD_MOUNT}/cache", *ssd_options(cache.spec, ssd_class)]
    else:
        arguments.append(f"--state-dir={STATE_DIR}")
    security = cache.spec.security
    if security.auth is not None:
        arguments.append(f"--password-file={AUTH_MOUNT}/password")
    if security.tls is not None:
        arguments += [f"--tls-cert={TLS_MOUNT}/tls.crt", f"--tls-key={TLS_MOUNT}/tls.key"]
        if security.tls.clients == "Required":
            arguments.append(f"--tls-client-ca={TLS_MOUNT}/ca.crt")
    return arguments


def _probes(cache: TieredCache) -> Manifest:
    tls = cache.spec.security.tls
    if tls is not None and tls.clients == "Required":
        # The kubelet has no certificate to show; the data port opens when the node is ready.
        alive: Manifest = {"tcpSocket": {"port": "resp"}}
        ready = alive
    else:
        scheme = "HTTP" if tls is None else "HTTPS"
        alive = {"httpGet": {"path": "/healthz", "port": "admin", "scheme": scheme}}
        ready = {"httpGet": {"path": "/readyz", "port": "admin", "scheme": scheme}}
    return {
        "startupProbe": {**alive, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": START_LIMIT_S},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3},
    }


def _scheduling(cache: TieredCache, user: NodeTemplate) -> Manifest:
    """Where the pod may run: what the user says, and nodes on different machines where that is possible."""
    given = {
        "imagePullSecrets": [{"name": secret.name} for secret in user.image_pull_secrets],
        "nodeSelector": dict(user.node_selector),
        "tolerations": [
            toleration.model_dump(by_alias=True, exclude_none=True) for toleration in user.tolerations
        ],
        "affinity": user.affinity.model_dump(by_alias=True, exclude_none=True) if user.affinity else None,
        "priorityClassName": user.priority_class_name,
        "serviceAccountName": user.service_account_name,
        "runtimeClassName": user.runtime_class_name,
        "topologySpreadConstraints": list(user.topology_spread_constraints)
        or [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(cache)},
            }
        ],
    }
    return {name: value for name, value in given.items() if value}
