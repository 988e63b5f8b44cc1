"""A node in this process, and one in a process of its own."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store

MI = 1024 * 1024


@dataclass
class InProcess:
    node: Node
    port: int
    admin_url: str


@pytest.fixture
async def served() -> AsyncIterator[InProcess]:
    """A node of 32 MiB on free ports, its books checked at the end."""
    node = Node(Store(32 * MI, 256 * MI, make_policy("lru")), block_tokens=16)
    data, admin = DataServer(node), AdminServer(node)
    _, port = data.start("127.0.0.1", 0)
    host, admin_port = await admin.start("127.0.0.1", 0)
    node.ready = True
    try:
        yield InProcess(node, port, f"http://{host}:{admin_port}")
    finally:
        await data.stop()
        await admin.stop()
    node.store.check()


@pytest.fixture
async def admin(served: InProcess) -> AsyncIterator[NodeClient]:
    async with NodeClient(served.admin_url) as client:
        yield client


@dataclass
class Process:
    port: int
    admin_url: str
    process: subprocess.Popen[str]


@contextmanager
def node_process(*options: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["pid"] == process.pid
            yield Process(int(said["listen"].rpartition(":")[2]), f"http://{said['admin']}", process)
        finally:
            process.terminate()
            process.wait(120)


@pytest.fixture
def start_node() -> Iterator[Callable[..., Process]]:
    """Starts nodes by their options; ends them when the test does."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(node_process(*options))
