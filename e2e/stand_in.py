"""A stand-in for kubelets: pods that are scheduled nowhere "run" here, as real nodes in this process.

Each pod gets an address of the loopback network, where a node of this package serves both its ports, and the
status that a kubelet would write. A resize of the pod is done at once, as long as it takes no memory from
under its node. Caches whose pods are to run here have `NOWHERE` as their node selector.
"""

import asyncio
import json
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from e2e.client import connect
from kvtide_cachenode.access.users import Secret
from kvtide_cachenode.contract.sizing import capacity_for
from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.control.opening import keep_up
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store
from kvtide_operator.act.kubernetes.children import ADMIN_PORT, RESP_PORT
from kvtide_operator.api.quantity import parse_quantity
from kvtide_operator.world.kinds import CACHE_LABEL, NODE_CONTAINER

NOWHERE: Final = {"kvtide.dev/stand-in": "true"}
ARENA_BYTES: Final = 4 << 30
"""Mapped for each node, and hardly touched: above any limit that a test gives."""
BLOCK_TOKENS: Final = 256
WATCH_S: Final = 300


@dataclass
class RunningNode:
    """A node in this process."""

    node: Node
    data: DataServer
    admin: AdminServer
    upkeep: asyncio.Task[None]
    address: str

    @classmethod
    async def start(cls, address: str, limit_bytes: int, token: str) -> "RunningNode":
        """Serve at an address, with as much DRAM as fits a limit."""
        node = Node(Store(capacity_for(limit_bytes), ARENA_BYTES, make_policy("lru")), BLOCK_TOKENS)
        node.store.max_bytes = capacity_for(limit_bytes)
        data, admin = DataServer(node), AdminServer(node, Secret(None, token.encode()))
        host, port = data.start(address, RESP_PORT)
        node.listen = f"{host}:{port}"
        await admin.start(address, ADMIN_PORT)
        node.ready = True
        return cls(node, data, admin, asyncio.create_task(keep_up(node.store, node.failures)), address)

    def limit(self, limit_bytes: int) -> None:
        """Change the limit of its container.

        Raises:
            AssertionError: the kernel would kill it.
        """
        fits = capacity_for(limit_bytes)
        assert self.node.store.capacity_bytes <= fits, f"{self.address} is left less than it was told to use"
        self.node.store.max_bytes = fits

    async def stop(self) -> None:
        """End it."""
        self.upkeep.cancel()
        await self.data.stop()
        await self.admin.stop()
        await self.node.cluster.stop()


@dataclass
class StandIn:
    """The pods of a namespace, or of all for ``None``; use `stand_in`.

    Attributes:
        nodes: by namespace and name of their pods.
    """

    http: aiohttp.ClientSession
    namespace: str | None
    nodes: dict[tuple[str, str], RunningNode] = field(default_factory=dict)
    _addresses: Iterator[str] = field(default_factory=lambda: _own_addresses())
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    async def run(self) -> None:
        """Do what kubelets do, until cancelled."""
        where = f"/api/v1/namespaces/{self.namespace}/pods" if self.namespace else "/api/v1/pods"
        chosen = {"labelSelector": CACHE_LABEL}
        async with self.http.get(where, params=chosen) as answer:
            listed = await answer.json()
        for pod in listed["items"]:
            await self._follow(pod)
        version = listed["metadata"]["resourceVersion"]
        while True:
            query = {
                **chosen, "watch": "true", "allowWatchBookmarks": "true",
                "resourceVersion": version, "timeoutSeconds": str(WATCH_S),
            }  # fmt: skip
            async with self.http.get(where, params=query) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    assert event["type"] != "ERROR", event["object"]
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        await self._end(event["object"])
                    elif event["type"] != "BOOKMARK":
                        await self._follow(event["object"])

    async def stop(self) -> None:
        """End every node."""
        await asyncio.gather(*(running.stop() for running in self.nodes.values()))
        self.nodes.clear()

    async def _follow(self, pod: dict[str, Any]) -> None:
        key = _key(pod)
        container = next(c for c in pod["spec"]["containers"] if c["name"] == NODE_CONTAINER)
        limit_bytes = parse_quantity(container["resources"]["limits"]["memory"])
        running = self.nodes.get(key)
        if running is None:
            token = await self._token(key[0], pod["metadata"]["labels"][CACHE_LABEL])
            running = self.nodes[key] = await RunningNode.start(next(self._addresses), limit_bytes, token)
        said = pod.get("status", {}).get("containerStatuses", ())
        if said and said[0]["resources"] == container["resources"]:
            return
        running.limit(limit_bytes)
        path = f"/api/v1/namespaces/{key[0]}/pods/{key[1]}/status"
        patch = {"status": _status(pod, container, running.address)}
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        async with self.http.patch(path, json=patch, headers=headers) as answer:
            # Deleted meanwhile: the watch says so in a moment.
            assert answer.status in (200, 404), await answer.text()

    async def _end(self, pod: dict[str, Any]) -> None:
        running = self.nodes.pop(_key(pod), None)
        if running is not None:
            await running.stop()

    async def _token(self, namespace: str, cache: str) -> str:
        if (namespace, cache) not in self._tokens:
            async with self.http.get(f"/api/v1/namespaces/{namespace}/secrets/{cache}-admin") as answer:
                data = (await answer.json())["data"]
            self._tokens[namespace, cache] = b64decode(data["token"]).decode()
        return self._tokens[namespace, cache]


@asynccontextmanager
async def stand_in(namespace: str | None) -> AsyncIterator[StandIn]:
    """Run the pods of a namespace, or of all; an error in doing so ends what is done with them meanwhile."""
    async with connect() as http, asyncio.TaskGroup() as group:
        kubelets = StandIn(http, namespace)
        work = group.create_task(kubelets.run())
        try:
            yield kubelets
        finally:
            work.cancel()
            await kubelets.stop()


def _own_addresses() -> Iterator[str]:
    network = 1 + os.getpid() % 254
    return (f"127.{network}.{number >> 8}.{number & 255}" for number in range(1, 1 << 16))


def _key(pod: dict[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _status(pod: dict[str, Any], container: dict[str, Any], address: str) -> dict[str, Any]:
    began = pod["metadata"]["creationTimestamp"]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": began,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": began}
            for kind in ("Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": NODE_CONTAINER,
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": began}},
                "resources": container["resources"],
            }
        ],
    }
