"""The StatefulSet of a cache: it makes pods and claims, and never restarts one by itself."""

import json
from collections.abc import Mapping

from kvtide_operator.act.kubernetes.children.names import (
    Manifest,
    labels,
    metadata,
    peers_name,
    selector,
)
from kvtide_operator.act.kubernetes.children.pod import pod_template
from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.api.tierclass import TierClass, TierClassSpec
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec
from kvtide_operator.world.kinds import CLASSES, SSD_CLAIM, TEMPLATE_HASH


def stateful_set(
    cache: TieredCache,
    owner_uid: str,
    wanted: SetSpec,
    ssd_class: TierClassSpec | None,
    classes: Mapping[str, TierClass],
) -> Manifest:
    """A set of ``wanted.replicas`` nodes; with claims where ``wanted.claim_bytes`` says so."""
    has_ssd = wanted.claim_bytes is not None
    template = pod_template(cache, wanted.memory_bytes, has_ssd=has_ssd, ssd_class=ssd_class)
    head = metadata(cache, owner_uid, cache.metadata.name)
    head["annotations"] = {
        TEMPLATE_HASH: template["metadata"]["annotations"][TEMPLATE_HASH],
        CLASSES: _noted(classes),
    }
    spec: Manifest = {
        "serviceName": peers_name(cache),
        "replicas": wanted.replicas,
        # A template that changed is for pods to come; which pod goes when is decided elsewhere.
        "updateStrategy": {"type": "OnDelete"},
        "podManagementPolicy": "Parallel",
        # Each size makes a revision, and nothing is ever rolled back to one.
        "revisionHistoryLimit": 2,
        # A cache that is gone, or smaller, needs no volumes: what they hold was moved, or can be computed.
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "selector": {"matchLabels": selector(cache)},
        "template": template,
    }
    if wanted.claim_bytes is not None:
        spec["volumeClaimTemplates"] = [_claim_template(cache, wanted.claim_bytes, wanted.claim_class)]
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": head, "spec": spec}


def _noted(classes: Mapping[str, TierClass]) -> str:
    specs = {
        name: one.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, one in classes.items()
    }
    return json.dumps(specs, sort_keys=True)


def _claim_template(cache: TieredCache, size_bytes: int, storage_class: str | None) -> Manifest:
    claim: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": format_quantity(size_bytes)}},
    }
    if storage_class is not None:
        claim["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": SSD_CLAIM, "labels": labels(cache)},
        "spec": claim,
    }
