import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import redis
from tests.ports import free_port

from kvtide_operator.replay.targets import Target
from kvtide_operator.workload.trace import Trace, renumber

START_TIMEOUT_S = 60.0


@dataclass
class RedisServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.port)

    def client(self, **options: str) -> redis.Redis:
        return redis.Redis(port=self.port, **options)


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.01)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on the PATH")
    started: list[RedisServer] = []

    def start(*flags: str, port: int | None = None) -> RedisServer:
        port = port or free_port()
        process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", *flags],
            stdout=subprocess.DEVNULL,
        )
        server = RedisServer(port, process)
        started.append(server)
        _wait_until_it_listens(port)
        return server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def make_trace() -> Callable[..., Trace]:
    def make(requests: list[list[int]], arrival_s: list[float] | None = None) -> Trace:
        lengths = [len(request) for request in requests]
        blocks, block_ids = renumber(np.array([block for request in requests for block in request], np.int64))
        return Trace(
            arrival_s=np.array(arrival_s or [0.0] * len(requests)),
            input_tokens=np.array(lengths, np.int32) * 16,
            output_tokens=np.full(len(requests), 7, np.int32),
            block_start=np.cumsum([0, *lengths], dtype=np.int64),
            blocks=blocks,
            block_ids=block_ids,
            weight=np.ones(len(requests)),
            block_tokens=16,
        )

    return make


@pytest.fixture
def branching_requests() -> list[list[int]]:
    """300 requests over a tree of prefixes: some share their beginnings, some come back whole."""
    random = np.random.default_rng(5)
    children: dict[tuple[int, int], int] = {}
    requests = []
    for _ in range(300):
        path: list[int] = []
        for depth in range(random.integers(1, 12)):
            edge = (path[-1] if path else -1, int(random.integers(0, 2 if depth < 4 else 6)))
            path.append(children.setdefault(edge, len(children)))
        requests.append(path)
    return requests
