"""Limits, logs, options from files and the environment, and an end without lost replies."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import redis.asyncio
from aiohttp import ClientSession

from kvtide_cachenode import cli, client_memory
from kvtide_cachenode.config_file import read_config
from kvtide_cachenode.control.metrics import PREFIX, TABLE
from kvtide_cachenode.process.latency import BOUNDS_S, Histogram
from kvtide_cachenode.serve import file_limit, server
from kvtide_cachenode.wire import resp

MI = 1024 * 1024
SERVE = [
    sys.executable,
    "-m",
    "kvtide_cachenode",
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STALL_S", 0.2)
    monkeypatch.setattr(server, "SWEEP_S", 0.05)


@pytest.mark.parametrize("said", [b"*2\r\n$3\r\nGET\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\nabc"])
async def test_a_client_that_leaves_a_request_unfinished_is_cut_off(
    impatient: None, served: Any, said: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(said)
    assert await asyncio.wait_for(reader.read(), 120) == b""
    assert served.node.stalled_total == 1
    assert served.node.store.used_bytes == 0
    writer.close()


async def test_a_client_that_sends_byte_by_byte_is_cut_off(impatient: None, served: Any) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n")
    async with asyncio.timeout(120):
        while not served.node.stalled_total:
            writer.write(b"x")
            await asyncio.sleep(0.01)
    writer.close()
    assert served.node.store.used_bytes == 0


async def test_a_client_that_reads_nothing_is_cut_off_and_one_that_reads_is_not(
    impatient: None, served: Any
) -> None:
    served.node.store.put(b"k", bytes(16 * MI))
    with socket.create_connection(("127.0.0.1", served.port)) as deaf:
        deaf.sendall(b"GET k\r\n")
        async with redis.asyncio.Redis(port=served.port) as client, asyncio.timeout(120):
            while not served.node.stalled_total:
                assert await client.strlen("k") == 16 * MI
                await asyncio.sleep(0.02)
            assert await client.ping() is True
    assert served.node.store.peek(b"k").pins == 0


async def test_an_idle_client_stays(impatient: None, served: Any) -> None:
    async with redis.asyncio.Redis(port=served.port) as client:
        await client.set("k", bytes(MI))
        (before,) = served.node.sessions
        await asyncio.sleep(0.6)
        assert await client.ping() is True
        assert list(served.node.sessions) == [before]


async def test_connections_above_the_limit_are_told_so(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server, "RESERVED_CONNECTIONS", 0)
    known, first = await asyncio.open_connection("127.0.0.1", served.port)
    first.write(b"PING\r\n")
    assert await known.readline() == b"+PONG\r\n"
    reader, second = await asyncio.open_connection("127.0.0.1", served.port)
    assert await reader.read() == b"-ERR max number of clients reached\r\n"
    assert served.node.connections_refused == 1
    first.close()
    second.close()


async def test_at_sigterm_replies_under_way_are_finished(start_node: Callable[..., Any]) -> None:
    started = start_node("--dram", "256Mi")
    value = random.Random(5).randbytes(48 * MI)
    async with redis.asyncio.Redis(port=started.port) as client:
        await client.set("k", value)
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port, limit=MI)
    idle_reader, idle = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(b"GET k\r\n")
    head = await reader.readexactly(MI)
    started.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(idle_reader.read(), 120) == b""
    async with ClientSession() as session, session.get(f"{started.admin_url}/readyz") as answer:
        assert answer.status == 503
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", started.port)
    rest = await asyncio.wait_for(reader.read(-1), 120)
    assert head + rest == b"$%d\r\n" % len(value) + value + b"\r\n"
    assert started.process.wait(120) == 0
    writer.close()
    idle.close()


def test_a_reply_that_nobody_takes_does_not_hold_up_the_end(start_node: Callable[..., Any]) -> None:
    started = start_node("--dram", "256Mi")
    with socket.create_connection(("127.0.0.1", started.port)) as deaf:
        deaf.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$33554432\r\n" + bytes(32 * MI) + b"\r\nGET k\r\n")
        assert deaf.recv(5) == b"+OK\r\n"
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(cli.FINISH_S + 5) == 0


def test_logs_as_json_lines() -> None:
    with subprocess.Popen(
        [*SERVE, "--dram", "64Mi", "--log-format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.terminate()
        _, logged = process.communicate(timeout=120)
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [line["message"].split()[0] for line in lines] == ["serving", "stopping"]
    assert lines[0]["listen"] == said["listen"]
    assert {"time", "level", "logger"} <= set(lines[0])


def test_options_come_from_the_file_the_environment_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('dram = "64Mi"\nblock-tokens = 16\neviction = "lru"\nadmin = "127.0.0.1:1"\n')
    context = click.Context(cli.serve)
    read_config(context, cli.serve.params[0], file)
    assert context.default_map == {
        "dram": "64Mi", "block_tokens": 16, "eviction": "lru", "admin": "127.0.0.1:1"
    }  # fmt: skip
    environment = os.environ | {"KVTIDE_NODE_DRAM": "72Mi", "KVTIDE_NODE_CONFIG": str(file)}
    with subprocess.Popen(
        SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["listen"].rpartition(":")[2])
        with redis.Redis(port=port) as client:
            assert client.info("memory")["maxmemory"] == 72 * MI
        process.terminate()
        assert process.wait(120) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dram = ", "is not TOML"),
        ("ram = 1", "'ram' is no option; known: admin"),
        ("dram = [1]", "must be text"),
    ],
)
def test_a_wrong_config_file_is_a_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    done = subprocess.run([*SERVE, "--config", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_docs_name_every_option_limit_and_metric() -> None:
    """The tables of docs/node.md and the code say the same."""
    text = (Path(__file__).parents[2] / "docs/node.md").read_text()
    for option in cli.serve.params:
        assert isinstance(option, click.Option)
        assert f"| `{option.opts[0]}` |" in text, f"{option.opts[0]} is not in docs/node.md"
    for row in TABLE:
        suffix = "_total" if row.kind == "counter" else ""
        label = f"`{row.label}`" if row.label else "–"
        line = f"| `{PREFIX}{row.name}{suffix}` | {row.kind} | {label} | {row.help} |"
        assert line in text, f"docs/node.md lacks the line\n{line}"
    for name, value in {
        "MAX_CONNECTIONS": server.MAX_CONNECTIONS,
        "RESERVED_CONNECTIONS": server.RESERVED_CONNECTIONS,
        "LOGIN_S": server.LOGIN_S,
        "STRANGER_ARGUMENTS": resp.STRANGER_ARGUMENTS,
        "STRANGER_BYTES": resp.STRANGER_BYTES,
        "RESERVED_FILES": file_limit.RESERVED_FILES,
        "STALL_S": server.STALL_S,
        "MAX_UNSENT_BYTES": client_memory.MAX_UNSENT_BYTES,
        "FINISH_S": cli.FINISH_S,
    }.items():
        assert f"| `{name}` | {value:,.0f}" in text, f"{name} = {value} is not in docs/node.md"


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram()
    for seconds, times in ((0.0, 1), (1e-5, 2), (1.1e-5, 3), (0.3, 1), (1e9, 4)):
        histogram.record(seconds, times)
    cumulative = dict(histogram.cumulative())
    assert cumulative[repr(BOUNDS_S[0])] == 3
    assert cumulative[repr(BOUNDS_S[1])] == 6
    assert cumulative["0.25"] == 6
    assert cumulative["0.5"] == 7
    assert cumulative["10.0"] == 7
    assert cumulative["+Inf"] == sum(histogram.counts) == 11


async def test_latencies_are_counted_once_a_command(served: Any) -> None:
    async with redis.asyncio.Redis(port=served.port) as client:
        for _ in range(10):
            await client.set("k", bytes(100_000))
    assert sum(served.node.dram_latency.counts) == served.node.commands_total >= 10
