"""The Services of a cache: one for its clients, one that names each of its nodes."""

from kvtide_operator.act.kubernetes.children.names import (
    ADMIN_PORT,
    RESP_PORT,
    Manifest,
    metadata,
    peers_name,
    selector,
)
from kvtide_operator.api.tieredcache import TieredCache

_RESP: Manifest = {"name": "resp", "port": RESP_PORT, "targetPort": "resp", "protocol": "TCP"}
_ADMIN: Manifest = {"name": "admin", "port": ADMIN_PORT, "targetPort": "admin", "protocol": "TCP"}


def client_service(cache: TieredCache, owner_uid: str) -> Manifest:
    """Where engines connect: any ready node answers for all, or redirects who can follow."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cache, owner_uid, cache.metadata.name),
        "spec": {"type": "ClusterIP", "selector": selector(cache), "ports": [dict(_RESP)]},
    }


def peers_service(cache: TieredCache, owner_uid: str) -> Manifest:
    """Headless: a name for each node, ready or not, and both ports, for who reads its metrics."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cache, owner_uid, peers_name(cache)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(cache),
            "ports": [dict(_RESP), dict(_ADMIN)],
        },
    }
