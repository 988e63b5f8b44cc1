"""Passes against real nodes: only the pods around them are made up."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import redis
from tests.converge.simulated_cluster import spec_of

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.sizing import MI, limit_for
from kvtide_operator.decide.converge import converge
from kvtide_operator.decide.steps import ResizePod, TellNode
from kvtide_operator.decide.target import Target
from kvtide_operator.observe.nodes import node_state
from kvtide_operator.world.cluster import CacheWorld, PodState, SetState

PATIENCE_S = 40.0


@dataclass
class RealPod:
    """A process; a resize of its pod holds at once."""

    process: subprocess.Popen
    port: int
    client: NodeClient
    memory_bytes: int


class RealCluster:
    def __init__(self, folder, stack):
        self.folder, self.stack = folder, stack
        self.spec = spec_of((2, 3), limit_for(64 * MI), False, "Keep")
        self.set, self.pods, self.held, self.starts = None, {}, (), 0

    async def start(self, ordinal, dram_bytes):
        self.starts += 1
        command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", str(dram_bytes)]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        command += ["--state-dir", str(self.folder / str(self.starts))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.stack.callback(self.stack.enter_context(process).terminate)
        said = json.loads(await asyncio.to_thread(process.stdout.readline))
        client = await self.stack.enter_async_context(NodeClient(f"http://{said['admin']}"))
        port = int(said["listen"].rpartition(":")[2])
        self.pods[ordinal] = RealPod(process, port, client, limit_for(dram_bytes))

    async def world(self):
        states = {f"chat-{at}": await pod.client.status() for at, pod in self.pods.items()}
        pods = tuple(
            PodState(
                f"chat-{at}", at, f"uid-{pod.port}", "1", "127.0.0.1", True, False, "a", 0, pod.memory_bytes,
                pod.memory_bytes,
            )
            for at, pod in sorted(self.pods.items())
        )  # fmt: skip
        nodes = {name: node_state(name, status) for name, status in states.items()}
        return CacheWorld(time.time(), self.set, pods, nodes=nodes)

    async def settle(self, target):
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            world = await self.world()
            made = converge(
                world,
                target,
                self.spec,
                name="chat",
                held=self.held,
                now_s=world.at_s,
                term=1,
                template_hash="a",
            )
            self.held = made.held
            if made.settled:
                return made
            for step in made.steps:
                match step:
                    case TellNode(pod, document):
                        await self.pods[int(pod[-1])].client.set_desired(document)
                    case ResizePod(pod, _, memory_bytes):
                        self.pods[int(pod[-1])].memory_bytes = memory_bytes
            wanted = made.stateful_set
            self.set = SetState("set", "1", wanted.replicas, "a", wanted.memory_bytes, None)
            for ordinal in range(wanted.replicas):
                if ordinal not in self.pods:
                    await self.start(ordinal, 48 * MI)
            for ordinal in [at for at in self.pods if at >= wanted.replicas]:
                self.pods.pop(ordinal).process.terminate()
            await asyncio.sleep(0.05)
        raise AssertionError(f"does not settle: {made}")

    def connect(self, ordinal=0):
        return redis.Redis(port=self.pods[ordinal].port)


async def test_real_nodes_form_a_cluster_grow_scale_and_shrink(tmp_path):
    async with AsyncExitStack() as stack:
        cluster = RealCluster(tmp_path, stack)
        await cluster.settle(Target(96 * MI))
        values = {f"key:{number}".encode(): b"%d" % number * 20_000 for number in range(200)}
        with cluster.connect() as client:
            client.mset(values)
        keys = list(values)

        def found():
            with cluster.connect() as client:
                return dict(zip(keys, client.mget(keys), strict=True))

        assert found() == values
        await cluster.settle(Target(128 * MI))
        assert found() == values
        await cluster.settle(Target(192 * MI))
        assert len(cluster.pods) == 3
        statuses = [await pod.client.status() for pod in cluster.pods.values()]
        assert all(status.tiers["dram"].entries > 30 for status in statuses)
        assert found() == values
        await cluster.settle(Target(64 * MI))
        assert len(cluster.pods) == 2
        assert found() == values
        statuses = [await pod.client.status() for pod in cluster.pods.values()]
        assert [status.tiers["dram"].capacity_bytes for status in statuses] == [32 * MI] * 2
        assert [pod.memory_bytes for pod in cluster.pods.values()] == [limit_for(32 * MI)] * 2


async def test_a_real_node_that_was_killed_is_replaced_and_the_others_keep_theirs(tmp_path):
    async with AsyncExitStack() as stack:
        cluster = RealCluster(tmp_path, stack)
        cluster.spec = spec_of((3, 3), None, False, "Keep")
        await cluster.settle(Target(96 * MI))
        values = {f"key:{number}".encode(): b"x" * 1000 for number in range(300)}
        with cluster.connect() as client:
            client.mset(values)
        lost = (await cluster.pods[1].client.status()).tiers["dram"].entries
        cluster.pods[1].process.kill()
        cluster.pods[1].process.wait()
        await cluster.start(1, 32 * MI)
        await cluster.settle(Target(96 * MI))
        statuses = [await pod.client.status() for pod in cluster.pods.values()]
        assert len({status.cluster.epoch for status in statuses}) == 1
        with cluster.connect(1) as client:
            kept = sum(value is not None for value in client.mget(list(values)))
            assert kept == 300 - lost
            client.mset(values)
            assert all(client.mget(list(values)))
