"""The Secret of a cache: the token of its nodes' admin API."""

from base64 import b64encode

from kvtide_operator.act.kubernetes.children.names import Manifest, admin_secret_name, metadata
from kvtide_operator.api.tieredcache import TieredCache


def admin_secret(cache: TieredCache, owner_uid: str, token: str) -> Manifest:
    """Made once and never applied over, or nodes and operator would know different tokens."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata(cache, owner_uid, admin_secret_name(cache)),
        "data": {"token": b64encode(token.encode()).decode()},
    }
