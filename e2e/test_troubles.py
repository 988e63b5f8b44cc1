"""What keeps real pods from being made or run is told in the words of Kubernetes, and once."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.kubectl import apply, get, kubectl, until
from e2e.live_cache import MIB, LiveCache, ssd_class, ssd_tier, start_cache
from e2e.operator_process import operator
from kvtide_cachenode.contract.sizing import limit_for

pytestmark = pytest.mark.timeout(300)

TOLD_S: Final = 90.0
NEEDED: Final = "requiredDuringSchedulingIgnoredDuringExecution"

TEMPLATES: Final[Mapping[str, tuple[dict[str, Any], str, bool]]] = {
    "image": ({"image": "localhost/no/such:1"}, "localhost/no/such:1", False),
    "machine": ({"nodeSelector": {"no": "such"}}, "Unschedulable: 0/1 nodes are available", False),
    "priority": ({"priorityClassName": "no-such"}, "no PriorityClass with name no-such", True),
    "account": ({"serviceAccountName": "no-such"}, 'serviceaccount "no-such" not found', True),
    "runtime": ({"runtimeClassName": "no-such"}, 'RuntimeClass "no-such" not found', True),
    "affinity": ({"affinity": {"nodeAffinity": {NEEDED: "nonsense"}}}, NEEDED, True),
}
"""What is wrong with a pod template → part of what is said, and whether it stays so until somebody acts."""


async def told(cache: LiveCache, part: str, *, stalled: bool) -> None:
    """Wait until the status says so, and an Event."""

    async def said() -> bool:
        ready, stuck = await cache.condition("Ready"), await cache.condition("Stalled")
        message = (stuck if stalled else ready).get("message", "")
        return (
            ready.get("status") == "False" and (stuck.get("status") == "True") == stalled and part in message
        )

    async def event() -> bool:
        return any(part in one["message"] for one in await warnings(cache))

    try:
        await until(f"the status of {cache.name} to say {part}", said, TOLD_S)
        await until(f"an Event about {cache.name} to say {part}", event, TOLD_S)
    except TimeoutError as error:
        raise TimeoutError(
            f"{error}\n{json.dumps((await cache.status()).get('conditions'), indent=1)}"
        ) from None


async def warnings(cache: LiveCache) -> list[dict[str, Any]]:
    about = f"--field-selector=involvedObject.kind=TieredCache,involvedObject.name={cache.name},type=Warning"
    found: list[dict[str, Any]] = json.loads(
        await kubectl("-n", cache.namespace, "get", "events", about, "-o", "json")
    )["items"]
    return found


async def started(namespace: str, image: str, name: str, **more: Any) -> LiveCache:
    template = {"image": image, "imagePullPolicy": "IfNotPresent", "cpu": "1m", **more.pop("template", {})}
    spec = {"nodes": {"replicas": {"min": 1}, "template": template}, **more.pop("spec", {})}
    return await start_cache(namespace, image, name=name, dram="64Mi", more=spec, settled=False, **more)


async def test_whatever_is_in_a_pods_way_is_told(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    async def told_of(name: str) -> None:
        template, part, stalled = TEMPLATES[name]
        cache = await started(namespace, node_image, name, template=template)
        await told(cache, part, stalled=stalled)
        assert len([one for one in await warnings(cache) if part in one["message"]]) == 1, name

    async def no_secret() -> None:
        auth = {"security": {"auth": {"secretRef": {"name": "no-such", "key": "password"}}}}
        cache = await started(namespace, node_image, "secret", spec=auth)
        await told(cache, '"no-such" not found', stalled=False)

    async with operator(tmp_path, namespace):
        await asyncio.gather(*map(told_of, TEMPLATES), no_secret())


async def test_pods_and_claims_of_others_are_neither_taken_over_nor_mounted(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "c", "image": node_image, "securityContext": context}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod-0", "namespace": namespace},
        "spec": {"containers": [container], "nodeSelector": {"no": "such"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "ssd-claim-0", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "300Mi"}}},
    }
    await apply(ssd_class("e2e-ssd", "loop"), pod, claim)
    before = await get("pvc", "ssd-claim-0", namespace)
    async with operator(tmp_path, namespace):
        one = await started(namespace, node_image, "pod")
        other = await started(namespace, node_image, "claim", ssd=ssd_tier("e2e-ssd", "256Mi"))
        await told(one, "Pod pod-0 was there before", stalled=True)
        await told(other, "PersistentVolumeClaim ssd-claim-0 was there before", stalled=True)
        assert await kubectl("-n", namespace, "get", "statefulsets", "-o", "name") == ""
        assert await get("pvc", "ssd-claim-0", namespace) == before
        await kubectl("-n", namespace, "delete", "pod", "pod-0", "--grace-period=0", "--force")
        await kubectl("-n", namespace, "delete", "pvc", "ssd-claim-0")
        await one.settled(64 * MIB, 90)
        await other.settled(64 * MIB, 90)


async def test_a_quota_that_forbids_a_surge_is_told_and_waited_for(
    definitions: None, namespace: str, node_image: str, tmp_path: Path
) -> None:
    async with operator(tmp_path, namespace):
        cache = await started(namespace, node_image, "full")
        await cache.settled(64 * MIB, 90)
        metadata = {"name": "full", "namespace": namespace}
        await apply(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": metadata,
                "spec": {"hard": {"pods": "1"}},
            }
        )
        await cache.edit({"nodes": {"template": {"annotations": {"changed": "yes"}}}})
        await told(cache, "exceeded quota", stalled=True)
        await kubectl("-n", namespace, "delete", "resourcequota", "full")
        await cache.settled(64 * MIB, 150)
        (pod,) = await cache.pods()
        assert pod["metadata"]["annotations"]["changed"] == "yes"
        assert (
            pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == f"{limit_for(64 * MIB) // MIB}Mi"
        )
