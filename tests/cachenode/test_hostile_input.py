"""Bytes that are no requests: redis' words or an end, others are served meanwhile, nothing stays behind."""

import asyncio
import json
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio
from aiohttp import ClientSession, encode_basic_auth

MI = 1 << 20
PASSWORD = "open sesame"
LOGIN = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(PASSWORD), PASSWORD.encode())
LOGGED_IN = {"Authorization": encode_basic_auth("default", PASSWORD)}
ERROR = b"-ERR Protocol error: "
BROKEN = {
    b"*1\r\n+PING\r\n": b"expected '$', got '+'",
    b"*1\r\n*1\r\n$4\r\nPING\r\n": b"expected '$', got '*'",
    b"*-5\r\n*x\r\n": b"invalid multibulk length",
    b"*99999999999999999999\r\n": b"invalid multibulk length",
    b"*1\r\n$-1\r\n": b"invalid bulk length",
    b"*1\r\n$x\r\n": b"invalid bulk length",
    b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n": b"invalid bulk length",
    b"'\r\n": b"unbalanced quotes in request",
    b"*1\r\n$4\r\nPINGxx": b"expected CRLF after a bulk string",
}
SEEDS = (
    b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\n" + b"v" * 70_000 + b"\r\n",
    b"*3\r\n$4\r\nMGET\r\n$4\r\nkept\r\n$1\r\nk\r\n",
    b"GET kept\r\nSET a b\r\n",
    struct.pack("<9i150s", 1, 500, 1, 3, 0, 2, 1, 1, 1, b"lm-key".ljust(150)) + b"v" * 500,
    struct.pack("<9i150s", 2, 0, 1, 3, 0, 2, 1, 1, 1, b"lm-key".ljust(150)),
    b"PUT /v1/capacity HTTP/1.1\r\nHost: n\r\nContent-Length: 20\r\n\r\n" + b'{"dram": "16Mi"}    ',
    b"GET /v1/status HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"*2\r\n$15\r\nKVTIDE.TOPOLOGY\r\n$2\r\n{}\r\n",
)


@dataclass
class Ports:
    listen: int
    lm: int
    admin: int

    async def status(self) -> dict[str, object]:
        async with ClientSession(headers=LOGGED_IN) as http, http.get(self._url("/v1/status")) as reply:
            found: dict[str, object] = await reply.json()
            return found

    async def connections(self) -> float:
        async with ClientSession(headers=LOGGED_IN) as http, http.get(self._url("/metrics")) as reply:
            lines = (await reply.text()).splitlines()
        return float(next(line for line in lines if line.startswith("kvtide_node_connections ")).split()[1])

    async def resize(self, dram: str) -> int:
        """The bytes of DRAM that are resident then."""
        body = json.dumps({"dram": dram})
        async with (
            ClientSession(headers=LOGGED_IN) as http,
            http.put(self._url("/v1/capacity"), data=body) as reply,
        ):
            assert reply.status == 200, await reply.text()
            return int((await reply.json())["tiers"]["dram"]["resident_bytes"])

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.admin}{path}"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Ports]:
    """A node with a password and an entry; when the test ends no connection, reservation or pin is left."""
    (tmp_path / "password").write_text(PASSWORD)
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", "16Mi"]
    command += ["--password-file", str(tmp_path / "password")]
    for flag in ("--listen", "--lm", "--admin"):
        command += [flag, "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            ports = Ports(*(int(said[name].rpartition(":")[2]) for name in ("listen", "lm", "admin")))
            async with redis.asyncio.Redis(port=ports.listen, password=PASSWORD) as client:
                await client.set("kept", b"value")
            yield ports
            async with asyncio.timeout(120):
                while await ports.connections():
                    await asyncio.sleep(0.01)
                # What is pinned or reserved cannot leave: this would not end.
                assert await ports.resize("0") == 0
        finally:
            process.terminate()
            _, logged = process.communicate()
        assert "Traceback" not in logged, logged
        assert PASSWORD not in logged


async def said_to(port: int, said: bytes) -> bytes:
    """All that a node answers until it closes the connection, or is through with what was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 120)
    except OSError:  # it has closed already
        return b""
    finally:
        writer.close()


async def is_served(client: "redis.asyncio.Redis[bytes]") -> None:
    assert await client.get("kept") == b"value"


@pytest.mark.parametrize("login", [b"", LOGIN], ids=["before login", "after login"])
async def test_what_is_not_resp_gets_redis_words_and_an_end(node: Ports, login: bytes) -> None:
    async with redis.asyncio.Redis(port=node.listen, password=PASSWORD) as client:
        for said, complaint in BROKEN.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", node.listen)
            writer.write(login + said)
            wanted = (b"+OK\r\n" if login else b"") + ERROR + complaint + b"\r\n"
            assert await asyncio.wait_for(reader.read(), 120) == wanted, said  # it closes, we do not
            writer.close()
            await is_served(client)


async def test_nothing_is_run_before_login(node: Ports) -> None:
    for command in (
        b"GET kept\r\n",
        b"SET kept x\r\n",
        b"FLUSHALL\r\n",
        b"KVTIDE.TOPOLOGY {}\r\n",
        b"SCAN 0\r\n",
    ):
        assert (await said_to(node.listen, command)).startswith(b"-NOAUTH "), command
    async with redis.asyncio.Redis(port=node.listen, password=PASSWORD) as client:
        await is_served(client)


@pytest.mark.parametrize("login", [b"", LOGIN], ids=["before login", "after login"])
async def test_damaged_requests_on_every_port(node: Ports, login: bytes) -> None:
    """Bytes of one protocol at the port of another, damaged, cut off and repeated."""
    chance = random.Random(13)
    async with redis.asyncio.Redis(port=node.listen, password=PASSWORD) as client:
        for number in range(150):
            said = bytearray(b"".join(chance.choices(SEEDS, k=chance.randint(1, 3))))
            for _ in range(chance.randint(0, 6)):
                said[chance.randrange(len(said))] = chance.randrange(256)
            said = said[: chance.randint(1, len(said))] if chance.random() < 0.3 else said
            port = chance.choice((node.listen, node.listen, node.lm, node.admin))
            await said_to(port, (login if port == node.listen else b"") + bytes(said))
            if number % 10 == 0:
                await client.set("kept", b"value")
                await is_served(client)
        await is_served(client)


async def test_half_requests_and_resets_leave_nothing(node: Ports) -> None:
    half = LOGIN + b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000000\r\n" + bytes(1000)
    opened = [await asyncio.open_connection("127.0.0.1", node.listen) for _ in range(20)]
    for reader, writer in opened:
        writer.write(half)
        assert await reader.readline() == b"+OK\r\n"
    async with redis.asyncio.Redis(port=node.listen, password=PASSWORD) as client:
        for _, writer in opened:
            writer.transport.abort()
        await is_served(client)
        assert await client.exists("half") == 0
