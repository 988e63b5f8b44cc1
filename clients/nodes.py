"""Nodes with a password, alone or three of them as a cluster, for clients of other languages."""

import base64
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from kvtide_cachenode.cluster.handover import Send, plan_handover
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.topology import Node, Topology

PASSWORD = "open sesame"
PATIENCE_S = 30.0
DRAM_BYTES = 64 << 20


@dataclass
class Running:
    """A node and where it listens."""

    process: subprocess.Popen[str]
    port: int
    admin: str

    def ask(self, method: str, path: str, document: object = None) -> Any:
        """Ask its admin API."""
        basic = base64.b64encode(f"default:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.admin}{path}",
            method=method,
            data=None if document is None else msgspec.json.encode(document),
            headers={"Authorization": f"Basic {basic}"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def cluster(self) -> Any:
        """What it says of the cluster."""
        return self.ask("GET", "/v1/status")["cluster"]

    def adopt(self, topology: Topology) -> None:
        """Make it know a topology."""
        document = {"term": 1, "generation": topology.epoch, "topology": topology}
        self.ask("PUT", "/v1/desired", document)


@contextmanager
def node(*options: str, port: int = 0) -> Iterator[Running]:
    """A node that ends with the block."""
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", str(DRAM_BYTES), *options]
    command += ["--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield Running(process, int(said["listen"].rpartition(":")[2]), said["admin"])
        finally:
            process.kill()


class Cluster:
    """Three nodes that share the slots."""

    def __init__(self, nodes: list[Running]) -> None:
        self.nodes = nodes
        ids = [str(each.cluster()["node_id"]) for each in nodes]
        self.members = [
            Node(id_, "127.0.0.1", each.port, DRAM_BYTES) for id_, each in zip(ids, nodes, strict=True)
        ]
        self.topology = first_topology(self.members)
        for each in nodes:
            each.adopt(self.topology)

    def move(self, *shares: int) -> None:
        """Give the nodes slots in proportion to ``shares``, and wait until all have moved."""
        sized = [
            Node(m.id, m.host, m.port, m.dram_bytes * s) for m, s in zip(self.members, shares, strict=True)
        ]
        handover = plan_handover(self.topology, rebalanced(self.topology, sized))
        until_s = time.monotonic() + PATIENCE_S
        while True:
            seen = {str(each.cluster()["node_id"]): each.cluster() for each in self.nodes}
            epochs = {id_: cluster["epoch"] for id_, cluster in seen.items()}
            moving = handover.moving.epoch
            emptied = {id_ for id_, one in seen.items() if one["emptied"] and one["epoch"] == moving}
            actions = handover.next_actions(epochs, emptied)
            if not actions:
                self.topology = handover.moved
                return
            assert time.monotonic() < until_s, f"the handover does not end: {epochs}"
            for action in actions:
                if isinstance(action, Send):
                    at = [member.id for member in self.members].index(action.node.id)
                    self.nodes[at].adopt(action.topology)
            time.sleep(0.02)


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """Three nodes that end with the block."""
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(node(*options)) for _ in range(3)])
