"""A TieredCache whose nodes are real pods: what its user does to it, and whether all sizes of it agree."""

import json
import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from e2e.kubectl import KubectlError, apply, get, kubectl, until
from e2e.node_pod import NodePod
from kvtide_cachenode.contract.quantity import parse_quantity
from kvtide_cachenode.contract.sizing import capacity_for

MIB: Final = 1 << 20
BLOCK_BYTES: Final = 64 * 1024
KINDS: Final = "statefulsets,pods,services,configmaps,secrets,poddisruptionbudgets,networkpolicies"
# Limits are whole MiB, and a node that keeps its limit keeps all that has room in it.
ROUNDING_BYTES: Final = MIB


@dataclass(frozen=True, slots=True)
class LiveCache:
    """A TieredCache by namespace and name."""

    namespace: str
    name: str

    async def edit(self, spec: Mapping[str, Any]) -> None:
        """A merge patch of the spec, as a user would make it.

        Raises:
            KubectlError: the API server refuses it.
        """
        await kubectl("-n", self.namespace, "patch", "tieredcache", self.name, "--type=merge",
                      f"--patch={json.dumps({'spec': spec})}")  # fmt: skip

    async def resize(self, dram: str, ssd: str | None = None) -> None:
        """Have mode Manual hold other sizes."""
        sizes = {"DRAM": dram, "SSD": ssd}
        tiers = (await self.read())["spec"]["tiers"]
        for tier in tiers:
            if (size := sizes[tier["medium"]]) is not None:
                tier["capacity"]["initial"] = size
        await self.edit({"tiers": tiers})

    async def read(self) -> dict[str, Any]:
        """The object."""
        return await get("tieredcache", self.name, self.namespace)

    async def status(self) -> dict[str, Any]:
        """Its status; empty before the operator has written one."""
        found: dict[str, Any] = (await self.read()).get("status", {})
        return found

    async def condition(self, kind: str) -> dict[str, Any]:
        """One of its conditions; empty before there is one."""
        return next((one for one in (await self.status()).get("conditions", ()) if one["type"] == kind), {})

    async def settled(self, dram_bytes: int | None, timeout_s: float) -> float:
        """Wait until it is ready, at rest, and as the spec of now says; how many seconds that took.

        Args:
            dram_bytes: that it shall want to hold then; None for whatever it wants.

        Raises:
            TimeoutError: it is not within ``timeout_s``; the message has its status.
        """
        began_s = time.monotonic()

        async def holds() -> bool:
            return is_settled(await self.read(), dram_bytes)

        try:
            await until(f"{self.name} to settle", holds, timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{json.dumps(await self.status(), indent=1)}") from None
        return time.monotonic() - began_s

    async def pods(self) -> list[dict[str, Any]]:
        """Its pods, by ordinal."""
        selector = f"--selector=kvtide.dev/cache={self.name}"
        found = json.loads(await kubectl("-n", self.namespace, "get", "pods", selector, "-o", "json"))[
            "items"
        ]
        return sorted(found, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2]))

    async def nodes(self) -> list[NodePod]:
        """Its nodes, by ordinal."""
        secret = await get("secret", f"{self.name}-admin", self.namespace)
        token = b64decode(secret["data"]["token"]).decode()
        return [
            NodePod(self.namespace, pod["metadata"]["name"], pod["status"]["podIP"], token)
            for pod in await self.pods()
        ]

    async def asked_for(self, *, more_than: int = 0, less_than: int | None = None) -> None:
        """Wait until a pod's spec has a limit within these bounds: the middle of a resize.

        Raises:
            TimeoutError: none has within a minute.
        """

        async def asked() -> bool:
            limits = [limit_bytes(pod["spec"]["containers"][0]) for pod in await self.pods()]
            return any(limit > more_than and (less_than is None or limit < less_than) for limit in limits)

        await until(f"a pod of {self.name} to be asked for another size", asked, 60.0)

    async def check_sizes(self, dram_bytes: int, *, restarts: int = 0) -> None:
        """Spec, kubelet, kernel, node and status agree, and nobody was killed for memory.

        Args:
            dram_bytes: the whole cache's.
            restarts: of all containers together; None were for want of memory.
        """
        status, nodes = await self.status(), await self.nodes()
        total_bytes = 0
        for node, pod in zip(nodes, await self.pods(), strict=True):
            said = await node.status()
            container = await node.container()
            wanted = limit_bytes(pod["spec"]["containers"][0])
            assert container.limit_bytes == wanted == await node.cgroup_limit_bytes(), node.name
            capacity_bytes = said.tiers["dram"].capacity_bytes
            assert capacity_bytes <= capacity_for(wanted), node.name
            assert said.tiers["dram"].used_bytes <= capacity_bytes
            assert "OOMKilled" not in container.reasons
            restarts -= container.restarts
            total_bytes += capacity_bytes
        assert restarts == 0
        assert 0 <= total_bytes - dram_bytes <= ROUNDING_BYTES * len(nodes), (total_bytes, dram_bytes)
        dram = status["tiers"][0]
        assert parse_quantity(dram["actual"]) == total_bytes
        assert parse_quantity(dram["paid"]) == sum([(await n.container()).limit_bytes or 0 for n in nodes])

    async def gone(self) -> bool:
        """Whether neither it nor any of its children is there."""
        listed = await kubectl(
            "-n", self.namespace, "get", KINDS, "-l", f"kvtide.dev/cache={self.name}", "-o", "json"
        )
        try:
            await self.read()
        except KubectlError:
            return not json.loads(listed)["items"]
        return False


def is_settled(cache: dict[str, Any], dram_bytes: int | None = None) -> bool:
    """Whether a TieredCache is ready, at rest, and as its present spec says."""
    status = cache.get("status", {})
    said = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return (
        status.get("observedGeneration") == cache["metadata"]["generation"]
        and (said.get("Ready"), said.get("Reconciling")) == ("True", "False")
        and (dram_bytes is None or parse_quantity(status["tiers"][0]["desired"]) == dram_bytes)
    )


def limit_bytes(container: dict[str, Any]) -> int:
    """The memory limit in a container's spec."""
    return parse_quantity(container["resources"]["limits"]["memory"])


async def start_cache(
    namespace: str,
    image: str,
    *,
    name: str = "chat",
    dram: str = "128Mi",
    most: str = "512Mi",
    nodes: int = 1,
    ssd: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    settled: bool = True,
) -> LiveCache:
    """Create a cache and its TierClass; mode is Manual unless ``more`` says otherwise.

    Blocks are of 512 tokens and 64 KiB, and a GiB costs 1024 times as much as it does: a small cache stands
    for a large one.

    Args:
        ssd: a second tier.
        more: of the spec.
        settled: wait until it is.

    Raises:
        TimeoutError: it does not settle.
    """
    tier = {
        "name": "dram", "medium": "DRAM", "classes": ["e2e-dram"],
        "capacity": {"initial": dram, "min": "64Mi", "max": most, "step": "8Mi"},
    }  # fmt: skip
    template = {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "cpu": "20m",
        "terminationGracePeriod": "5s",
    }
    spec = {
        "model": {"name": "meta-llama/Llama-3.1-8B-Instruct", "blockTokens": 512, "kvBytesPerToken": 128},
        "engine": {
            "kind": "VLLM", "gpuHour": "2.50", "gpuCache": 0,
            "profile": {"source": "Catalogue", "system": "h100_sxm"},
        },
        "tiers": [tier] if ssd is None else [tier, dict(ssd)],
        "nodes": {"replicas": {"min": nodes}, "template": template},
        "scaling": {"mode": "Manual"},
        **(more or {}),
    }  # fmt: skip
    cache = {
        "apiVersion": "kvtide.dev/v1alpha1",
        "kind": "TieredCache",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    await apply(DRAM_CLASS, cache)
    started = LiveCache(namespace, name)
    if settled:
        await started.settled(None, START_S)
    return started


START_S: Final = 90.0
DRAM_CLASS: Final = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TierClass",
    "metadata": {"name": "e2e-dram"},
    "spec": {"medium": "DRAM", "price": {"currency": "USD", "capacity": [{"perGiBHour": "4.03"}]}},
}


def ssd_class(name: str, storage_class: str) -> dict[str, Any]:
    """A TierClass of volumes of a StorageClass, of 300 MiB and more."""
    rate = {"base": "500M"}
    return {
        "apiVersion": "kvtide.dev/v1alpha1",
        "kind": "TierClass",
        "metadata": {"name": name},
        "spec": {
            "medium": "SSD",
            "price": {"currency": "USD", "capacity": [{"perGiBHour": "0.33"}]},
            "speed": {"read": rate, "write": rate, "sharedChannel": True, "latency": "200us"},
            "storageClassName": storage_class,
            "volume": {"min": "300Mi", "max": "10Gi", "step": "4Mi"},
        },
    }


def ssd_tier(class_name: str, size: str) -> dict[str, Any]:
    """An SSD tier of a cache."""
    return {
        "name": "ssd", "medium": "SSD", "classes": [class_name], "ttl": {"max": "1h"},
        "capacity": {"initial": size, "min": "0", "max": "2Gi", "step": "8Mi"},
    }  # fmt: skip
