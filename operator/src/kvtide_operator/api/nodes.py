"""The cache nodes: how many, how large each may be, and what their pods look like."""

from importlib.metadata import version
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvtide_operator.api.base import Model, ObjectName, SecretRef, rule, rules
from kvtide_operator.api.quantity import (
    QUANTITY_PATTERN,
    DeclaredDuration,
    DeclaredQuantity,
    in_cel,
    parse_cpu,
)

NODE_IMAGE: Final = f"kvtide/cachenode:{version('kvtide')}"
"""The node of the operator's own release. It is no default of the CRD: a stored default would outlive it."""

_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = f"^({_DNS_LABEL}([.]{_DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
Qualified = Annotated[str, Field(max_length=317, pattern=_QUALIFIED)]
"""The key of a label or annotation: a prefix of 253 characters, a slash, a name of 63."""
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = Annotated[dict[Qualified, LabelValue], Field(max_length=32)]
Annotations = Annotated[dict[Qualified, Annotated[str, Field(max_length=4096)]], Field(max_length=32)]


class Replicas(Model):
    """How many nodes: ``min``, or more where they would be larger than ``nodes.maxMemory``.

    Attributes:
        min: the least, and the number while sizes fit.
        max: the most; left out, as ``min``.
    """

    model_config = rules(
        rule(
            "!has(self.max) || self.min <= self.max",
            "nodes.replicas.min must be at most nodes.replicas.max; swap or widen them",
        )
    )

    min: int = Field(ge=1, le=64)
    max: int = Field(default_factory=lambda declared: declared["min"], ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(
                f"nodes.replicas.min {self.min} must be at most nodes.replicas.max {self.max}; "
                "swap or widen them"
            )
        return self


_NO_VALUE = "a toleration with operator Exists must have no value; remove it"
_NO_KEY = "a toleration without a key must have operator Exists; give a key"
_NO_SECONDS = "tolerationSeconds is only for effect NoExecute; remove it"


class Toleration(Model):
    """A taint that the nodes' pods tolerate, as in a pod.

    Attributes:
        key: of the taint; left out, every key.
        operator: whether the value must be equal or the key there.
        value: of the taint.
        effect: of the taint; left out, every effect.
        toleration_seconds: how long NoExecute is tolerated.
    """

    model_config = rules(
        rule("!has(self.operator) || self.operator != 'Exists' || !has(self.value)", _NO_VALUE),
        rule("has(self.key) || (has(self.operator) && self.operator == 'Exists')", _NO_KEY),
        rule("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')", _NO_SECONDS),
    )

    key: Qualified | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(default=None, ge=0, le=315_360_000)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(_NO_VALUE)
        if self.key is None and self.operator != "Exists":
            raise ValueError(_NO_KEY)
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(_NO_SECONDS)
        return self


class Affinity(Model):
    """Which machines and pods the nodes' pods are to be near or far from, as in a pod.

    Attributes:
        node_affinity: to machines.
        pod_affinity: to pods.
        pod_anti_affinity: away from pods.
    """

    node_affinity: dict[str, Any] | None = None
    pod_affinity: dict[str, Any] | None = None
    pod_anti_affinity: dict[str, Any] | None = None


_OWN_PREFIX = "kvtide.dev/"
_OWN_SAID = (
    f"labels and annotations of nodes.template with the prefix {_OWN_PREFIX} are the operator's own; "
    "remove them"
)
_OWN_LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "instance", "managed-by"))
_OWN_LABELS_SAID = (
    f"{', '.join(_OWN_LABELS)} are labels that the operator gives the pods itself; remove them from "
    "nodes.template.labels"
)


def _each_once(secrets: tuple[SecretRef, ...]) -> tuple[SecretRef, ...]:
    for at, secret in enumerate(secrets):
        if secret in secrets[:at]:
            raise ValueError(f"imagePullSecrets names {secret.name!r} twice; name each once")
    return secrets


class NodeTemplate(Model):
    """What a user may say of the nodes' pods; all fields are a pod's, but ``cpu``.

    Attributes:
        image: left out, the node of the operator's own release.
        image_pull_policy: when the image is pulled.
        image_pull_secrets: for the image's registry.
        labels: of the pods, besides the operator's own.
        annotations: of the pods, besides the operator's own.
        node_selector: labels of the machines they may run on.
        tolerations: taints of machines that they tolerate.
        affinity: which machines and pods they are to be near or far from.
        topology_spread_constraints: how they are spread over machines and zones.
        priority_class_name: their priority class.
        service_account_name: their service account; they need no rights.
        runtime_class_name: their runtime class.
        cpu: the CPU request of the node's container; there is no CPU limit.
        termination_grace_period: how long a node may take to stop.
    """

    model_config = rules(
        rule(
            f"{in_cel('self.terminationGracePeriod')} >= duration('1s') && "
            f"{in_cel('self.terminationGracePeriod')} <= duration('24h')",
            "template.terminationGracePeriod must lie between 1s and 24h; give for example 60s",
        ),
        rule(
            " && ".join(
                f"(!has(self.{name}) || self.{name}.all(key, key.matches('{_QUALIFIED}')))"
                for name in ("labels", "annotations", "nodeSelector")
            ),
            "labels, annotations and nodeSelector of nodes.template must have keys such as team or "
            "example.com/team",
        ),
        rule(
            " && ".join(
                f"(!has(self.{name}) || !self.{name}.exists(key, key.startsWith('{_OWN_PREFIX}')))"
                for name in ("labels", "annotations")
            ),
            _OWN_SAID,
        ),
        rule(f"!has(self.labels) || !self.labels.exists(key, key in {list(_OWN_LABELS)})", _OWN_LABELS_SAID),
        rule(
            "quantity(self.cpu).compareTo(quantity('1024')) <= 0",
            "template.cpu must be at most 1024 cores; give for example 500m or 4",
        ),
    )

    image: str = Field(default_factory=lambda: NODE_IMAGE, min_length=1, max_length=512, pattern=r"^\S+$")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: Annotated[tuple[SecretRef, ...], AfterValidator(_each_once)] = Field(
        default=(),
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    labels: Labels = Field(default={})
    annotations: Annotations = Field(default={})
    node_selector: Labels = Field(default={})
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32)
    affinity: Affinity | None = None
    topology_spread_constraints: tuple[dict[str, Any], ...] = Field(default=(), max_length=8)
    priority_class_name: ObjectName | None = None
    service_account_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    cpu: str = Field(default="500m", max_length=16, pattern=QUANTITY_PATTERN)
    termination_grace_period: DeclaredDuration = 60.0

    @model_validator(mode="after")
    def _pods_can_have_it(self) -> Self:
        if not 1 <= self.termination_grace_period <= 24 * 3600:
            raise ValueError(
                "template.terminationGracePeriod must lie between 1s and 24h; give for example 60s"
            )
        if any(key.startswith(_OWN_PREFIX) for key in (*self.labels, *self.annotations)):
            raise ValueError(_OWN_SAID)
        if any(key in _OWN_LABELS for key in self.labels):
            raise ValueError(_OWN_LABELS_SAID)
        if parse_cpu(self.cpu) > 1024 * 1000:
            raise ValueError("template.cpu must be at most 1024 cores; give for example 500m or 4")
        return self


class ServiceMonitor(Model):
    """How the ServiceMonitor of the nodes looks, in clusters that have that kind.

    Attributes:
        labels: what your Prometheus selects ServiceMonitors by.
    """

    labels: Labels = Field(default={})


class Nodes(Model):
    """The cache nodes.

    Attributes:
        replicas: how many.
        max_memory: memory of one node's container at most; left out, the machine is the bound.
        template: what their pods look like.
        service_monitor: what scrapes them.
    """

    model_config = rules(
        rule(
            "!has(self.maxMemory) || quantity(string(self.maxMemory)).isGreaterThan(quantity('0'))",
            "nodes.maxMemory must be above 0; give for example 64Gi or leave it out",
        )
    )

    replicas: Replicas
    max_memory: DeclaredQuantity | None = Field(default=None, gt=0)
    template: NodeTemplate = NodeTemplate()
    service_monitor: ServiceMonitor = ServiceMonitor()
