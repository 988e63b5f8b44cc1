"""Nodes to load from and servers that misbehave."""

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack, suppress

import msgspec
import pytest

from kvtide_cachenode.engines.loading import Loader
from kvtide_cachenode.engines.node_connection import Credentials
from kvtide_cachenode.engines.node_set import NodeSet
from kvtide_cachenode.engines.storing import Storer
from kvtide_cachenode.engines.tally import Tally

PAYLOAD_BYTES = 100_000


class Slot:
    """Staging memory without tensors."""

    def __init__(self):
        self.memory = memoryview(bytearray(32 + PAYLOAD_BYTES))


class Engine:
    """Blocks in memory, and the two directions of transfer."""

    def __init__(self, nodes, slots=8):
        self.blocks = {}
        self.tally = Tally()
        self.loader = Loader(nodes, Slot, self._scatter, 2, self.tally)
        self.storer = Storer(nodes, Slot, slots, 2, self.tally)
        self.counted = {}

    def store(self, key, payload, lineage=1.0):
        def gather(slot):
            slot.memory[32:] = payload

        return self.storer.offer(key, lineage, gather)

    def count(self, name):
        for counter, amount in self.tally.take().items():
            self.counted[counter] = self.counted.get(counter, 0) + amount
        return self.counted.get(name, 0)

    def close(self):
        self.loader.close()
        self.storer.close()

    def _scatter(self, slot, block_id):
        self.blocks[block_id] = bytes(slot.memory[32:])


class Node:
    def __init__(self, *options, port=0):
        command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", "64Mi", *options]
        command += ["--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = json.loads(self.process.stdout.readline())
        self.address = ("127.0.0.1", int(said["listen"].rpartition(":")[2]))
        self.admin = said["admin"]

    def kill(self):
        self.process.kill()
        self.process.wait(120)
        self.process.stdout.close()


class Server:
    """Answers every connection with what ``behave`` does with its socket."""

    def __init__(self, behave):
        self._behave = behave
        self._open = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for peer, thread in self._open:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            peer.close()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._open.append((peer, thread))
            thread.start()

    def _serve(self, peer):
        with suppress(OSError):
            self._behave(peer)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_node(stack):
    def start(*options, port=0):
        node = Node(*options, port=port)
        stack.callback(node.kill)
        return node

    return start


@pytest.fixture
def serve(stack):
    def start(behave):
        server = Server(behave)
        stack.callback(server.close)
        return server.address

    return start


@pytest.fixture
def node_set(stack):
    def make(*seeds, credentials=Credentials()):  # noqa: B008 - an immutable default
        nodes = NodeSet(list(seeds), credentials)
        stack.callback(nodes.close)
        return nodes

    return make


@pytest.fixture
def engine(stack):
    def make(nodes, slots=8):
        engine = Engine(nodes, slots)
        stack.callback(engine.close)
        return engine

    return make


@pytest.fixture
def adopt():
    """Gives nodes a topology, all of them the same."""

    def tell(nodes, topology):
        document = {"term": 1, "generation": topology.epoch, "topology": topology}
        for node in nodes:
            request = urllib.request.Request(
                f"http://{node.admin}/v1/desired", msgspec.json.encode(document), method="PUT"
            )
            urllib.request.urlopen(request, timeout=10).close()

    return tell
