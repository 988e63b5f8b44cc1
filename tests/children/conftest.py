"""Caches of every shape, and their objects."""

from collections.abc import Callable
from typing import Any

import pytest

from kvtide_operator.act.kubernetes.children import Manifest, children
from kvtide_operator.api.tierclass import TierClass, TierClassSpec
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec

GIB = 1 << 30
UID = "0b6c4d7e-6f1f-4f0c-9d3e-2f0f5c8e7a11"
DRAM_TIER = {
    "name": "dram",
    "medium": "DRAM",
    "classes": ["dram"],
    "capacity": {"initial": "4Gi", "min": "1Gi", "max": "8Gi"},
}
SSD_TIER = {
    "name": "ssd",
    "medium": "SSD",
    "classes": ["essd"],
    "capacity": {"initial": "0", "min": "0", "max": "1Ti"},
}


def _make_cache(*, ssd: bool = False, engine: str = "VLLM", **spec: Any) -> TieredCache:
    return TieredCache.model_validate(
        {
            "metadata": {"name": "chat", "namespace": "serving", "labels": {"argocd.example/id": "mine"}},
            "spec": {
                "model": {"name": "meta-llama/Llama-3.1-8B-Instruct", "blockTokens": 256},
                "engine": {
                    "kind": engine,
                    "gpuHour": "2.50",
                    "profile": {"source": "Catalogue", "system": "h100_sxm"},
                },
                "tiers": [DRAM_TIER, SSD_TIER] if ssd else [DRAM_TIER],
                "nodes": {"replicas": {"min": 2}, **spec.pop("nodes", {})},
                **spec,
            },
        }
    )


def _ssd_class(**spec: Any) -> TierClassSpec:
    return TierClass.model_validate(
        {
            "metadata": {"name": "essd"},
            "spec": {
                "medium": "SSD",
                "price": {"capacity": [{"perGiBHour": "0.0002"}]},
                "speed": {"read": {"base": "120M"}, "write": {"base": "120M"}},
                "storageClassName": "essd-pl1",
                **spec,
            },
        }
    ).spec


def _objects_of(
    cache: TieredCache,
    *,
    replicas: int = 2,
    memory_bytes: int = 3 * GIB // 2,
    claim_bytes: int | None = None,
    tier_class: TierClassSpec | None = None,
) -> dict[str, Manifest]:
    """All objects by ``Kind/name``."""
    made = children(
        cache,
        UID,
        SetSpec(replicas, memory_bytes, claim_bytes, tier_class.storage_class_name if tier_class else None),
        ssd_class=tier_class,
        operator_namespace="kvtide-system",
        has_service_monitors=True,
    )
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in made}


SECURITY = {
    "open": {},
    "password": {"auth": {"secretRef": {"name": "pw", "key": "word"}}},
    "tls": {"tls": {"secretRef": {"name": "certs"}}},
    "mutual tls": {
        "auth": {"secretRef": {"name": "pw"}},
        "tls": {"secretRef": {"name": "certs"}, "clients": "Required"},
    },
}


@pytest.fixture(params=[False, True], ids=["dram", "ssd"])
def ssd(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=list(SECURITY))
def security(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SECURITY[request.param]


@pytest.fixture(scope="session")
def make_cache() -> Callable[..., TieredCache]:
    return _make_cache


@pytest.fixture(scope="session")
def ssd_class() -> Callable[..., TierClassSpec]:
    return _ssd_class


@pytest.fixture(scope="session")
def objects_of() -> Callable[..., dict[str, Manifest]]:
    return _objects_of
