"""The NetworkPolicy of a cache: who may open a connection to a node.

Policies add up: whoever has engines in another namespace, or on the host's network, allows them by one more
policy that selects the same pods.
"""

from kvtide_operator.act.kubernetes.children.names import Manifest, metadata, selector
from kvtide_operator.api.tieredcache import TieredCache


def network_policy(cache: TieredCache, owner_uid: str, operator_namespace: str) -> Manifest:
    """Data from the cache's namespace, which holds its nodes, too; admin from operator and Prometheus.

    Prometheus is known by ``app.kubernetes.io/name: prometheus``, which its charts and its operator set.
    """
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kvtide-operator"}},
    }
    prometheus = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cache, owner_uid, cache.metadata.name),
        "spec": {
            "podSelector": {"matchLabels": selector(cache)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": "resp", "protocol": "TCP"}], "from": [{"podSelector": {}}]},
                {"ports": [{"port": "admin", "protocol": "TCP"}], "from": [operator, prometheus]},
            ],
        },
    }
