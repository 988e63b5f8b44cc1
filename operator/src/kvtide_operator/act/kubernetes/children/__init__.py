"""The objects that a cache consists of, as the operator applies them: pure functions, one file a kind.

What they return is applied by server-side apply and compared with what is there field by field, so they say
only what matters, and say it as the API server stores it.
"""

from collections.abc import Mapping

from kvtide_operator.act.kubernetes.children.connection import connection
from kvtide_operator.act.kubernetes.children.disruption import disruption_budget
from kvtide_operator.act.kubernetes.children.names import (
    ADMIN_PORT,
    RESP_PORT,
    Manifest,
    admin_secret_name,
    client_url,
    connection_name,
    labels,
)
from kvtide_operator.act.kubernetes.children.network_policy import network_policy
from kvtide_operator.act.kubernetes.children.pod import wanted_hash
from kvtide_operator.act.kubernetes.children.secret import admin_secret
from kvtide_operator.act.kubernetes.children.service_monitor import service_monitor
from kvtide_operator.act.kubernetes.children.services import client_service, peers_service
from kvtide_operator.act.kubernetes.children.stateful_set import stateful_set
from kvtide_operator.api.tierclass import TierClass, TierClassSpec
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec

__all__ = [
    "ADMIN_PORT",
    "RESP_PORT",
    "Manifest",
    "admin_secret",
    "admin_secret_name",
    "children",
    "client_url",
    "connection_name",
    "labels",
    "wanted_hash",
]


def children(
    cache: TieredCache,
    owner_uid: str,
    wanted: SetSpec | None,
    *,
    ssd_class: TierClassSpec | None,
    operator_namespace: str,
    has_service_monitors: bool,
    classes: Mapping[str, TierClass] = {},
) -> list[Manifest]:
    """All of a cache's objects in the order of their application, but the Secret of the admin token.

    Args:
        cache: whose objects.
        owner_uid: the cache's uid.
        wanted: what the StatefulSet shall say; None leaves it out.
        ssd_class: the class of the SSD tier's volumes, None without such a tier.
        operator_namespace: where the operator's pods are.
        has_service_monitors: whether the cluster has that kind.
        classes: of the cache's tiers, by name.
    """
    objects = [
        network_policy(cache, owner_uid, operator_namespace),
        disruption_budget(cache, owner_uid),
        peers_service(cache, owner_uid),
        client_service(cache, owner_uid),
        connection(cache, owner_uid),
    ]
    if has_service_monitors:
        objects.append(service_monitor(cache, owner_uid))
    if wanted is not None:
        # Last: its pods find everything else in place.
        objects.append(stateful_set(cache, owner_uid, wanted, ssd_class, classes))
    return objects
