"""The PodDisruptionBudget of a cache."""

from kvtide_operator.act.kubernetes.children.names import Manifest, metadata, selector
from kvtide_operator.api.tieredcache import TieredCache


def disruption_budget(cache: TieredCache, owner_uid: str) -> Manifest:
    """One node away at a time; one that is broken anyway may always be evicted."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cache, owner_uid, cache.metadata.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(cache)},
        },
    }
