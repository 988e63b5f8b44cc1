"""What the objects of a cache are called, and what marks them as its own."""

from typing import Any, Final

from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.world.kinds import CACHE_LABEL
from kvtide_operator.world.owner import owner_reference

Manifest = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""

RESP_PORT: Final = 6379
ADMIN_PORT: Final = 7379


def peers_name(cache: TieredCache) -> str:
    """The headless Service in front of every node, ready or not."""
    return f"{cache.metadata.name}-peers"


def connection_name(cache: TieredCache) -> str:
    """The ConfigMap for engines."""
    return f"{cache.metadata.name}-connection"


def admin_secret_name(cache: TieredCache) -> str:
    """The Secret that holds the token of the nodes' admin API."""
    return f"{cache.metadata.name}-admin"


def client_host(cache: TieredCache) -> str:
    """Where clients in the cluster connect, and what a TLS certificate of the nodes must be for."""
    return f"{cache.metadata.name}.{cache.metadata.namespace}.svc"


def client_url(cache: TieredCache) -> str:
    """The same as a URL that redis clients understand."""
    scheme = "redis" if cache.spec.security.tls is None else "rediss"
    return f"{scheme}://{client_host(cache)}:{RESP_PORT}"


def selector(cache: TieredCache) -> dict[str, str]:
    """Labels that only this cache's nodes have; a StatefulSet's selector can never change."""
    return {"app.kubernetes.io/name": "kvtide-cachenode", "app.kubernetes.io/instance": cache.metadata.name}


def labels(cache: TieredCache) -> dict[str, str]:
    """Labels of every object of the cache; none is taken from the cache itself.

    A label copied from it, such as the one that Argo CD tracks its objects by, would make others take our
    objects for theirs.
    """
    return {
        **selector(cache),
        "app.kubernetes.io/managed-by": "kvtide",
        CACHE_LABEL: cache.metadata.name,
    }


def metadata(cache: TieredCache, owner_uid: str, name: str) -> Manifest:
    """Metadata of an object that goes when the cache goes, also while no operator runs."""
    return {
        "name": name,
        "namespace": cache.metadata.namespace,
        "labels": labels(cache),
        "ownerReferences": [owner_reference(cache.metadata.name, owner_uid)],
    }
