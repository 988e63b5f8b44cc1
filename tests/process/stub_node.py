"""A cache node's admin API as the operator's client sees it, with the faults of the small API server."""

from typing import Any

from kvtide_cachenode.contract.client import NodeRefused, NodeUnreachable
from kvtide_cachenode.contract.messages import (
    ClusterStatus,
    Desired,
    NodeStatus,
    TierStatus,
    TraceStatus,
    Version,
)
from kvtide_cachenode.contract.sizing import capacity_for

NO_FAULT: tuple[int, dict[str, str]] = (0, {})


class StubNode:
    """One node in a pod of ``server``; its calls are counted among the server's, and fail with them."""

    def __init__(self, server: Any, pod: tuple[str, str, str]) -> None:
        self.server, self.pod = server, pod
        self.url = "http://node"
        self.document: Desired | None = None
        self.capacity_bytes: int | None = None

    async def status(self) -> NodeStatus:
        self._fail("GET", "/v1/status")
        return self._status()

    async def set_desired(self, document: Desired) -> NodeStatus:
        self._fail("PUT", "/v1/desired")
        self.document = document
        assert document.capacity is not None
        assert isinstance(document.capacity.dram, int)
        self.capacity_bytes = document.capacity.dram
        return self._status()

    def present(self, token: str) -> None:
        """Any token is right."""

    async def close(self) -> None:
        """Nothing is open."""

    def _fail(self, verb: str, path: str) -> None:
        self.server.requests.append((verb, path))
        fault = self.server.faults.popleft() if self.server.faults else NO_FAULT
        if fault == NO_FAULT:
            return
        if fault is None or fault[0] == 200:
            raise NodeUnreachable(f"{self.url}{path} does not answer")
        raise NodeRefused(self.url + path, fault[0], "a fault that the test asked for")

    def _status(self) -> NodeStatus:
        limit = self.server.objects[self.pod]["status"]["containerStatuses"][0]["resources"]["limits"]
        largest = capacity_for(int(limit["memory"].removesuffix("Mi")) << 20)
        capacity = largest if self.capacity_bytes is None else self.capacity_bytes
        topology = None if self.document is None else self.document.topology
        version = None if self.document is None else Version(self.document.term, self.document.generation)
        cluster = ClusterStatus(
            node_id="0" * 40, epoch=0 if topology is None else topology.epoch, slots=0, heard={},
            emptied=True, moved_entries=0, moved_bytes=0, left_entries=0, left_bytes=0, forwarded=0,
            forwarded_bytes=0, forward_failures=0, redirected=0, topology=topology,
        )  # fmt: skip
        return NodeStatus(
            api_version="v1", version="0", boot_id="b", capabilities=[], uptime_s=1.0, ready=True,
            tiers={"dram": TierStatus(capacity, 0, 0, 0, 0, largest)}, resize=None, counters={},
            trace=TraceStatus("b:0", 0, 0), cluster=cluster, desired=version, applied=version,
            listen="127.0.0.1:6379",
        )  # fmt: skip
