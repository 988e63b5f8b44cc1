"""The kinds of Kubernetes objects that the operator reads and writes, and how each is addressed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Raw = Mapping[str, Any]
"""An object as the API server says it: decoded JSON."""

CACHE_LABEL: Final = "kvtide.dev/cache"
"""On every child: the name of the TieredCache it belongs to."""
NODE_CONTAINER: Final = "node"
"""The container of a pod that the cache node runs in."""
SSD_CLAIM: Final = "ssd"
"""The StatefulSet's claim template; the claim of pod ``chat-0`` is ``ssd-chat-0``."""
TEMPLATE_HASH: Final = "kvtide.dev/template-hash"
CLASSES: Final = "kvtide.dev/classes"
"""On a StatefulSet: the TierClasses that it was made for."""
"""Annotation of pods and StatefulSet: the pod template without sizes."""
GROWN_AT: Final = "kvtide.dev/grown-at"
"""Annotation of claims: when a larger volume was asked for last."""


class CacheKey(NamedTuple):
    """Which TieredCache."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """As people and kubectl write it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind at one version.

    Attributes:
        group: empty for the core group.
        plural: its name in URLs.
        namespaced: whether its objects live in a namespace.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of a collection, an object or its subresource; no namespace is all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = [root + within, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


TIERED_CACHE: Final = Kind("kvtide.dev", "v1alpha1", "TieredCache", "tieredcaches")
TIER_CLASS: Final = Kind("kvtide.dev", "v1alpha1", "TierClass", "tierclasses", namespaced=False)
CACHE_PLAN: Final = Kind("kvtide.dev", "v1alpha1", "CachePlan", "cacheplans")
STATEFUL_SET: Final = Kind("apps", "v1", "StatefulSet", "statefulsets")
POD: Final = Kind("", "v1", "Pod", "pods")
CLAIM: Final = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SERVICE: Final = Kind("", "v1", "Service", "services")
CONFIG_MAP: Final = Kind("", "v1", "ConfigMap", "configmaps")
DISRUPTION_BUDGET: Final = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
SERVICE_MONITOR: Final = Kind("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors")
STORAGE_CLASS: Final = Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False)
SECRET: Final = Kind("", "v1", "Secret", "secrets")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT: Final = Kind("", "v1", "Event", "events")

OWN_KINDS: Final = (TIERED_CACHE, TIER_CLASS, CACHE_PLAN)
"""What users and the operator declare."""
CHILD_KINDS: Final = (
    STATEFUL_SET, POD, CLAIM, SERVICE, CONFIG_MAP, DISRUPTION_BUDGET, NETWORK_POLICY,
)  # fmt: skip
"""What a cache is made of; watched by their label, never the whole cluster's."""

_BY_NAME: Final = {
    (kind.api_version, kind.kind): kind
    for kind in (*OWN_KINDS, *CHILD_KINDS, SERVICE_MONITOR, STORAGE_CLASS, SECRET, LEASE, EVENT)
}


def kind_of(manifest: Raw) -> Kind:
    """The kind of a manifest with ``apiVersion`` and ``kind``.

    Raises:
        KeyError: the operator writes no such kind.
    """
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
