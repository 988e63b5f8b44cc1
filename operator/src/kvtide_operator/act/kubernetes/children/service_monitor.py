"""The ServiceMonitor of a cache, for clusters that run the Prometheus operator."""

from kvtide_operator.act.kubernetes.children.names import Manifest, client_host, metadata, selector
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.world.kinds import CACHE_LABEL


def service_monitor(cache: TieredCache, owner_uid: str) -> Manifest:
    """Scrape every node; only the peers' Service has a port of that name.

    With TLS a node's certificate must be for `client_host`: a node is scraped by its address, which no
    certificate names.
    """
    endpoint: Manifest = {"port": "admin", "path": "/metrics"}
    tls = cache.spec.security.tls
    if tls is not None:
        secret = tls.secret_ref.name
        config: Manifest = {
            "serverName": client_host(cache),
            "ca": {"secret": {"name": secret, "key": "ca.crt"}},
        }
        if tls.clients == "Required":
            config["cert"] = {"secret": {"name": secret, "key": "tls.crt"}}
            config["keySecret"] = {"name": secret, "key": "tls.key"}
        endpoint |= {"scheme": "https", "tlsConfig": config}
    head = metadata(cache, owner_uid, cache.metadata.name)
    head["labels"] = {**cache.spec.nodes.service_monitor.labels, **head["labels"]}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": head,
        "spec": {
            "selector": {"matchLabels": selector(cache)},
            "targetLabels": [CACHE_LABEL],
            "endpoints": [endpoint],
        },
    }
