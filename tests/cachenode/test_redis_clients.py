"""Real Redis clients against a node: redis-py in both protocols, redis-cli."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.retry import Retry

MI = 1024 * 1024
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture(params=[2, 3])
async def client(request: pytest.FixtureRequest, served: Any) -> AsyncIterator[redis.asyncio.Redis]:
    connected = redis.asyncio.Redis(port=served.port, protocol=request.param, client_name="tests")
    try:
        yield connected
    finally:
        await connected.aclose()


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 16_383, 16_384, 65_536, 3 * MI + 7])
async def test_values_of_every_size_come_back(client: redis.asyncio.Redis, size: int) -> None:
    value = random.Random(size).randbytes(size)
    assert await client.set("key", value) is True
    assert await client.get("key") == value
    assert await client.strlen("key") == size
    assert await client.set("key", value[::-1]) is True
    assert await client.get("key") == value[::-1]


async def test_set_options(client: redis.asyncio.Redis) -> None:
    big = b"b" * 50_000
    assert await client.set("a", "1", xx=True) is None
    assert await client.set("a", big, nx=True) is True
    assert await client.set("a", "2", nx=True) is None
    assert await client.set("a", "2", get=True) == big
    assert await client.set("a", big, get=True, keepttl=True) == b"2"
    assert await client.set("a", "3", xx=True) is True
    assert await client.setnx("a", "4") is False
    assert await client.setnx("b", big) is True
    assert await client.getdel("b") == big
    with pytest.raises(ResponseError, match="live until they are evicted"):
        await client.set("a", "1", ex=10)
    assert await client.get("a") == b"3"


async def test_many_keys(client: redis.asyncio.Redis) -> None:
    values = {f"k{i}": bytes([i]) * (i * 4000) for i in range(12)}
    assert await client.mset(values) is True
    assert await client.mget([*values, "none"]) == [*values.values(), None]
    assert await client.exists("k1", "k2", "none", "k1") == 3
    assert await client.dbsize() == 12
    found = [key async for key in client.scan_iter(match="k[1-3]*", count=3)]
    assert sorted(found) == [b"k1", b"k10", b"k11", b"k2", b"k3"]
    assert await client.delete("k1", "k2", "none") == 2
    assert await client.unlink("k3") == 1
    assert await client.type("k4") == "string" or await client.type("k4") == b"string"
    assert await client.ttl("k4") == -1
    assert await client.flushall() is True
    assert await client.dbsize() == 0


async def test_pipelines_keep_their_order(client: redis.asyncio.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    for i in range(400):
        pipeline.set(f"p{i}", b"%d" % i * (9000 if i % 7 == 0 else 3))
        pipeline.get(f"p{i}")
    replies = await pipeline.execute()
    assert replies[1::2] == [b"%d" % i * (9000 if i % 7 == 0 else 3) for i in range(400)]


async def test_who_am_i(client: redis.asyncio.Redis, served: Any) -> None:
    assert await client.ping() is True
    assert await client.echo("x" * 20_000) == b"x" * 20_000
    assert await client.client_getname() in (b"tests", "tests")
    listed = await client.client_list()
    assert [entry["name"] for entry in listed] == ["tests"]
    info = await client.info()
    assert info["run_id"] == served.node.boot_id
    assert info["maxmemory"] == 32 * MI
    assert (await client.config_get("save")) == {"save": ""}
    assert await client.command_count() > 20
    assert await client.execute_command("SELECT", 0)
    with pytest.raises(ResponseError, match="out of range"):
        await client.execute_command("SELECT", 1)


async def test_an_unknown_command_leaves_the_connection_as_it_was(client: redis.asyncio.Redis) -> None:
    await client.set("a", "1")
    with pytest.raises(ResponseError, match=r"unknown command 'NOPE', with args beginning with: 'a' 'b'"):
        await client.execute_command("NOPE", "a", "b")
    with pytest.raises(ResponseError, match="wrong number of arguments for 'get' command"):
        await client.execute_command("GET")
    assert await client.get("a") == b"1"


async def test_a_value_larger_than_the_tier(client: redis.asyncio.Redis, served: Any) -> None:
    await client.set("kept", "1")
    with pytest.raises(OutOfMemoryError, match="the tier has 33554432"):
        await client.set("big", bytes(40 * MI))
    assert await client.get("kept") == b"1"
    assert await client.mset({"small": "1", "other": bytes(20_000)}) is True
    assert served.node.store.counters.rejected == 1


async def test_the_cap_holds_and_the_least_recently_used_goes(
    client: redis.asyncio.Redis, served: Any
) -> None:
    for i in range(100):
        await client.set(f"k{i}", bytes(MI))
        await client.get("k0")
        assert served.node.store.used_bytes <= 32 * MI
        assert served.node.store.resident_bytes() <= 32 * MI
    assert await client.exists("k0", "k99") == 2
    assert await client.exists("k1") == 0


async def test_replies_in_flight_survive_overwrite_and_flush(served: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=64 * MI)
    other = redis.asyncio.Redis(port=served.port)
    value = random.Random(1).randbytes(8 * MI)
    await other.set("k", value)
    writer.write(b"GET k\r\nPING\r\n")  # nothing is read yet: the reply waits in the socket and the arena
    await writer.drain()
    await other.set("k", bytes(8 * MI))
    await other.flushall()
    assert await reader.readexactly(10 + len(value) + 2 + 7) == b"$8388608\r\n" + value + b"\r\n+PONG\r\n"
    writer.close()
    await writer.wait_closed()
    await other.aclose()
    assert served.node.store.used_bytes == 0


def test_redis_cli_and_pipe_mode(start_node: Callable[..., Any]) -> None:
    port = str(start_node("--dram", "64Mi").port)

    def cli(*words: str, typed: bytes = b"") -> bytes:
        return subprocess.run(
            ["redis-cli", "-p", port, *words], input=typed, capture_output=True, check=True, timeout=120
        ).stdout

    assert cli("-3", "SET", "a", "1") == b"OK\n"
    commands = b"".join(b"*3\r\n$3\r\nSET\r\n$5\r\nk%04d\r\n$3\r\nabc\r\n" % i for i in range(5000))
    assert b"errors: 0, replies: 5000" in cli("--pipe", typed=commands)
    assert cli("DBSIZE").strip() == b"5001"
    assert len(cli("--scan").split()) == 5001
    assert cli("COMMAND", "INFO", "get").split() == [b"get", b"2", b"readonly", b"fast", b"1", b"1", b"1"]


def test_a_password_keeps_strangers_out(start_node: Callable[..., Any], tmp_path: Any) -> None:
    secret = tmp_path / "password"
    secret.write_text("let me in\n")
    port = start_node("--dram", "64Mi", "--password-file", str(secret)).port
    with redis.Redis(port=port, retry=ONCE) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.set("a", bytes(100_000))
    for protocol in (2, 3):
        with redis.Redis(port=port, password="let me in", protocol=protocol) as known:
            assert known.set("a", bytes(100_000)) is True
    with (
        redis.Redis(port=port, password="guess", retry=ONCE) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.ping()
