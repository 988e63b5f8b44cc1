"""Three nodes in processes of their own, formed to a cluster through their admin APIs."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec
import pytest

from kvtide_cachenode.cluster.handover import Send
from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node

PATIENCE_S = 60.0


@dataclass
class Member:
    """One node: where it listens and what it is in the topology."""

    process: subprocess.Popen
    port: int
    lm_port: int
    admin: str
    node: Node

    def ask(self, method, path, document=None):
        """The status and the decoded body of a reply."""
        body = None if document is None else msgspec.json.encode(document)
        request = urllib.request.Request(f"http://{self.admin}{path}", method=method, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def status(self):
        return self.ask("GET", "/v1/status")[1]

    def adopt(self, topology):
        document = {"term": 1, "generation": topology.epoch, "topology": topology}
        status, reply = self.ask("PUT", "/v1/desired", document)
        assert status < 300, reply

    @property
    def entries(self):
        return self.status()["tiers"]["dram"]["entries"]


@contextmanager
def member_processes(count, *options):
    """So many nodes, started at the same time; NUMBER in an option is each node's own."""
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", "64Mi", *options]
    for flag in ("--listen", "--lm", "--admin"):
        command += (flag, "127.0.0.1:0")
    with ExitStack() as stack:
        processes = []
        for number in range(count):
            own = [word.replace("NUMBER", str(number)) for word in command]
            process = subprocess.Popen(own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.terminate)
        yield [said_by(process) for process in processes]


def said_by(process):
    """The member that a process says it is."""
    said = json.loads(process.stdout.readline())
    port, lm_port = (int(said[name].rpartition(":")[2]) for name in ("listen", "lm"))
    member = Member(process, port, lm_port, said["admin"], None)
    member.node = Node(member.status()["cluster"]["node_id"], "127.0.0.1", port, 64 << 20)
    return member


def wait_until(true, what):
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


class Cluster(list):
    """The members."""

    def all_agree(self):
        """Wait until every node has heard of every other at its own epoch."""
        wait_until(lambda: agree(self), "the nodes do not hear of each other")

    def hand_over(self, handover):
        """Drive a handover as an operator does, from what the nodes report."""
        wait_until(lambda: step(self, handover), "the handover does not end")

    def forwarded(self):
        """Commands that went from node to node so far."""
        return sum(member.status()["cluster"]["forwarded"] for member in self)


def agree(members):
    clusters = [member.status()["cluster"] for member in members]
    epochs = {cluster["epoch"] for cluster in clusters}
    heard = [epoch for cluster in clusters for epoch in cluster["heard"].values()]
    return len(epochs) == 1 and len(heard) == len(members) * (len(members) - 1) and set(heard) == epochs


def step(members, handover):
    """One look at the nodes and what is to be done now; whether that was nothing."""
    clusters = {member.node.id: member.status()["cluster"] for member in members}
    epochs = {node_id: cluster["epoch"] for node_id, cluster in clusters.items()}
    moving = handover.moving.epoch
    emptied = {key for key, cluster in clusters.items() if cluster["emptied"] and cluster["epoch"] == moving}
    actions = handover.next_actions(epochs, emptied)
    for action in actions:
        if isinstance(action, Send):
            next(one for one in members if one.node.id == action.node.id).adopt(action.topology)
    return not actions


@pytest.fixture
def cluster(request, tmp_path):
    """Three nodes; a test may add options (indirectly), in which FOLDER is its own."""
    options = [word.replace("FOLDER", str(tmp_path)) for word in getattr(request, "param", ())]
    with member_processes(3, *options) as processes:
        members = Cluster(processes)
        topology = first_topology([member.node for member in members])
        for member in members:
            member.adopt(topology)
        members.all_agree()
        yield members
