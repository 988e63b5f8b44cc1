"""A node's own process, real sockets: what engines' clients send is in its trace, one line a request."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from benches.engine_streams import Connection, Engines, Fleet, Habit, conversations

from kvtide_cachenode.access_trace.inference import Access


@pytest.fixture
def node() -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", "64Mi"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait(120)
        process.stdout.close()


@pytest.mark.parametrize("habit", ["redis", "sglang"])
def test_one_request_is_one_line_on_the_wire(node: dict[str, str], habit: Habit) -> None:
    fleet = Fleet(habit, ranks=2, pool=4)
    port = int(node["listen"].rpartition(":")[2])
    sent = conversations(7, 60, rate=5.0)
    with ExitStack() as stack:
        clients: dict[Connection, redis.Redis] = {}

        def say(
            _: int, connection: Connection, access: Access, keys: list[bytes], hits: list[bool], now_s: float
        ) -> None:
            del now_s
            if connection not in clients:
                clients[connection] = stack.enter_context(
                    redis.Redis(port=port, single_connection_client=True)
                )
            pipeline = clients[connection].pipeline(transaction=False)
            for key in keys:
                if access is Access.LOOK_UP:
                    pipeline.exists(key)
                elif access is Access.LOAD:
                    pipeline.get(key)
                else:
                    pipeline.set(key, bytes(100))
            answered = pipeline.execute()
            if access is not Access.STORE:
                assert [bool(reply) for reply in answered] == hits

        Engines(fleet, say, 7).play(sent)
    lines: list[dict[str, object]] = []
    deadline_s = time.monotonic() + 60
    count = -1
    while (len(lines) < len(sent) or count != len(lines)) and time.monotonic() < deadline_s:
        count = len(lines)
        with urllib.request.urlopen(f"http://{node['admin']}/v1/trace") as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
    asked = sum(len(request.blocks) for request in sent)
    told = sum(len(line["hash_ids"]) for line in lines)  # type: ignore[arg-type]
    hits = sum(line["hit_blocks"] for line in lines)  # type: ignore[misc]
    assert len(lines) == pytest.approx(60, rel=0.02)
    assert hits / told == pytest.approx(sum(fleet.hits.values()) / asked, rel=0.02)
