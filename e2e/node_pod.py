"""A pod with a cache node alone: what the operator does to it is done here by hand."""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from e2e.kubectl import apply, get, kubectl, until
from kvtide_cachenode.contract.client import NodeClient, NodeError
from kvtide_cachenode.contract.messages import NodeStatus
from kvtide_cachenode.contract.quantity import parse_quantity

CONTAINER: Final = "node"
READY_S: Final = 60.0
# The kubelet tries again every 10 to 20 s. After a restart it may lack the usage of a container that has
# ended, and does not shrink until it has collected that, which it does each minute.
LIMIT_S: Final = 300.0
SET_TOGETHER: Final = 16
# The process is told by its name, which is the script's: this script's own command line has the same words.
KILL: Final = (
    "for p in /proc/[0-9]*; do read -r n < $p/comm && [ $n = kvtide-node ] && kill -9 ${p#/proc/}; done; true"
)
CGROUP_LIMIT: Final = (
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2> /dev/null || cat /sys/fs/cgroup/memory.max"
)


@dataclass(frozen=True, slots=True)
class Container:
    """The node's container as the kubelet reports it. ``limit_bytes`` is the limit it really has."""

    container_id: str | None
    restarts: int
    reasons: frozenset[str]
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class NodePod:
    """A running pod, by namespace, name and address; ``token`` opens its admin API where that is closed."""

    namespace: str
    name: str
    ip: str
    token: str | None = None

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[NodeClient]:
        """The client of its admin API."""
        async with NodeClient(f"http://{self.ip}:7379", self.token) as client:
            yield client

    async def status(self) -> NodeStatus:
        """What the node says of itself, as soon as it says something."""

        async def asked() -> NodeStatus | None:
            async with self.admin() as client:
                with contextlib.suppress(NodeError):
                    return await client.status()
            return None

        answer: NodeStatus = await until(f"{self.name} to answer", asked, READY_S)
        return answer

    async def container(self) -> Container:
        """The container as the kubelet reports it."""
        return _container(await get("pod", self.name, self.namespace))

    async def cgroup_limit_bytes(self) -> int:
        """The limit that the kernel enforces, read in the container."""
        return int(await self._run(CGROUP_LIMIT))

    async def resize(self, limit_bytes: int) -> None:
        """Ask for another memory limit (and request); returns before the kubelet has done anything.

        Raises:
            KubectlError: the API server refuses it.
        """
        sizes = {kind: {"memory": str(limit_bytes)} for kind in ("requests", "limits")}
        patch = {"spec": {"containers": [{"name": CONTAINER, "resources": sizes}]}}
        await kubectl(
            "-n",
            self.namespace,
            "patch",
            "pod",
            self.name,
            "--subresource=resize",
            f"--patch={json.dumps(patch)}",
        )

    async def resized(self, limit_bytes: int) -> None:
        """Wait until the container has this limit.

        Raises:
            TimeoutError: it has not within `LIMIT_S`.
        """

        async def has_it() -> bool:
            return (await self.container()).limit_bytes == limit_bytes

        await until(f"{self.name} to have a limit of {limit_bytes} bytes", has_it, LIMIT_S)

    async def kill(self) -> None:
        """SIGKILL to the node; returns when its container has been started again and answers."""
        before = await self.container()
        await self._run(KILL)

        async def restarted() -> bool:
            now = await self.container()
            return now.restarts > before.restarts and now.container_id != before.container_id

        await until(f"{self.name} to be started again", restarted, READY_S)
        await self.status()

    async def fill(self, count: int, size_bytes: int) -> None:
        """Write ``count`` entries named 0, 1, … of that size."""
        async with Redis(host=self.ip) as client:
            for first in range(0, count, SET_TOGETHER):
                async with client.pipeline(transaction=False) as together:
                    for key in range(first, min(first + SET_TOGETHER, count)):
                        together.set(str(key), bytes([key % 256]) * size_bytes)
                    await together.execute()

    async def keys(self, count: int) -> set[int]:
        """Which of the entries 0 … ``count`` - 1 it has."""
        async with Redis(host=self.ip) as client, client.pipeline(transaction=False) as together:
            for key in range(count):
                together.exists(str(key))
            return {key for key, there in enumerate(await together.execute()) if there}

    async def _run(self, script: str) -> str:
        command = (
            "-n",
            self.namespace,
            "exec",
            self.name,
            "--container",
            CONTAINER,
            "--",
            "sh",
            "-c",
            script,
        )
        return await kubectl(*command)


async def start_node(namespace: str, name: str, image: str, *, limit_bytes: int) -> NodePod:
    """Start a pod with one node and wait until it is ready.

    Raises:
        TimeoutError: it does not get ready.
    """
    await apply(manifest(namespace, name, image, limit_bytes))

    async def is_ready() -> str | None:
        pod = await get("pod", name, namespace)
        conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
        return pod["status"]["podIP"] if conditions.get("Ready") == "True" else None

    return NodePod(namespace, name, await until(f"{name} to be ready", is_ready, READY_S))


def manifest(namespace: str, name: str, image: str, limit_bytes: int) -> dict[str, Any]:
    """A pod that Pod Security *restricted* admits, whose processes see each other: one may kill the node."""
    memory = {"memory": str(limit_bytes)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": [
                        "serve",
                        "--listen=0.0.0.0:6379",
                        "--admin=0.0.0.0:7379",
                        "--dram=auto",
                        "--state-dir=/state",
                    ],
                    "resources": {"requests": {"cpu": "50m", **memory}, "limits": memory},
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 7379}, "periodSeconds": 1},
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                }
            ],
            "volumes": [{"name": "state", "emptyDir": {"sizeLimit": "64Mi"}}],
        },
    }


def _container(pod: dict[str, Any]) -> Container:
    (status,) = pod["status"]["containerStatuses"]
    ended = [
        status[key]["terminated"] for key in ("state", "lastState") if "terminated" in status.get(key, {})
    ]
    limit = status.get("resources", {}).get("limits", {}).get("memory")
    return Container(
        status.get("containerID") if "running" in status["state"] else None,
        status["restartCount"],
        frozenset(each.get("reason", "") for each in ended),
        None if limit is None else parse_quantity(limit),
    )
