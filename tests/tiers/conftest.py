"""A two-tier store in this process, and nodes in processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import SsdLog, TieredStore

MI = 1024 * 1024


async def open_tiered(
    path: Path, dram_bytes: int = 8 * MI, ssd_bytes: int = 256 * MI, writes: str = "always"
) -> TieredStore:
    log = await SsdLog.open(path, ssd_bytes, time.time)
    return TieredStore(dram_bytes, 64 * MI, make_policy("lru"), log, writes)  # type: ignore[arg-type]


@dataclass
class Process:
    port: int
    admin_url: str
    process: subprocess.Popen[str]


@pytest.fixture
def connect() -> Iterator[Callable[[int], "redis.Redis[bytes]"]]:
    """Clients by port, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(redis.Redis(port=port))


@contextmanager
def node_process(*options: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield Process(int(said["listen"].rpartition(":")[2]), f"http://{said['admin']}", process)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(120)


@pytest.fixture
def start_node() -> Iterator[Callable[..., Process]]:
    """Starts nodes by their options; ends them when the test does."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(node_process(*options))
