"""The admin port among hostile clients: a sentence for each mistake, a limit for each wait, no secrets."""

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvtide_cachenode.access.users import Secret
from kvtide_cachenode.access_trace.ring import Inferred
from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import EPOCHS_AT_ONCE, FIRST_EPOCH_MOST, Topology
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.contract.messages import ErrorReply
from kvtide_cachenode.control import http_port
from kvtide_cachenode.control.admin import AdminServer
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers.drain import CannotDrainError
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import Store

MI = 1024 * 1024
TOKEN = "s3cr3t-t0k3n"


@dataclass
class Admin:
    node: Node
    port: int

    async def say(self, said: bytes) -> tuple[int, str]:
        """The status and the body that a request, byte by byte as given, is answered with."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(said)
        try:
            return await answer_from(reader)
        finally:
            writer.close()

    async def put(self, path: str, body: bytes, *headers: bytes) -> tuple[int, str]:
        lines = [f"PUT {path} HTTP/1.1".encode(), b"Host: a", b"Content-Length: %d" % len(body), *headers]
        return await self.say(b"\r\n".join([*lines, b"", body]))


async def answer_from(reader: asyncio.StreamReader) -> tuple[int, str]:
    async with asyncio.timeout(120):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        return int(head.split()[1]), (await reader.readexactly(length)).decode()


@asynccontextmanager
async def serving(token: str | None = None) -> AsyncIterator[Admin]:
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    server = AdminServer(node, None if token is None else Secret(None, token.encode()))
    _, port = await server.start("127.0.0.1", 0)
    node.ready = True
    try:
        yield Admin(node, port)
    finally:
        await server.stop()
        await node.cluster.stop()


def topology(epoch: int) -> bytes:
    member = Member("0" * 40, "127.0.0.1", 1, MI)
    document = msgspec.to_builtins(first_topology([member])) | {"epoch": epoch}
    return json.dumps({"term": 1, "generation": 1, "topology": document}).encode()


BODIES: dict[str, tuple[str, bytes, str]] = {
    "text that is not UTF-8": ("/v1/capacity", b'{"dram":"\xff"}', "not UTF-8"),
    "no JSON": ("/v1/capacity", b"dram=1", "malformed"),
    "nothing": ("/v1/capacity", b"", "must be"),
    "another type": ("/v1/desired", b"[1]", "no desired document"),
    "deep nesting": ("/v1/desired", b'{"term":1,"generation":1,"topology":' + b"[" * 100_000, "document"),
    "deep nesting of the wanted type": ("/v1/desired", b'{"a":' * 100_000, "document"),
    "NaN": ("/v1/desired", b'{"term":1,"generation":1,"ttl_s":{"groups":{},"other":NaN}}', "malformed"),
    "infinity": ("/v1/desired", b'{"term":1,"generation":1,"ttl_s":{"groups":{},"other":1e999}}', "range"),
    "a name twice": ("/v1/capacity", b'{"dram":1048576,"dram":2097152}', "'dram' is there twice"),
    "an unknown name": ("/v1/capacity", b'{"disk":1}', "disk"),
    "a huge size": ("/v1/capacity", b'{"dram":10000000000000000000000000}', "above"),
    "a negative size": ("/v1/capacity", b'{"dram":-1}', "below zero"),
    "a term without end": ("/v1/desired", b'{"term":9007199254740990,"generation":1}', "so far ahead"),
    "an epoch of 10^25": ("/v1/desired", topology(10**25), "is not between 1"),
    "an epoch that nothing can follow": ("/v1/desired", topology(2**53 - 1), "too far beyond"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_wrong_is_refused_in_a_sentence(name: str, caplog: Any) -> None:
    path, body, complaint = BODIES[name]
    async with serving() as admin:
        status, said = await admin.put(path, body)
        assert status in (400, 409)
        assert complaint in msgspec.json.decode(said, type=ErrorReply).error
        assert admin.node.failures.total == {}
        assert admin.node.store.capacity_bytes == 8 * MI
        assert admin.node.cluster.view is None
        assert (await admin.say(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
    assert not caplog.records


async def test_a_drain_takes_no_wrong_deadline() -> None:
    async with serving() as admin:
        for deadline in (b"-1", b"1e9", b"NaN", b'"soon"', b"true"):
            body = b'{"deadline_s":%s}' % deadline
            head = b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            status, said = await admin.say(head + body)
            assert (status, "deadline_s" in said) == (400, True), deadline


async def test_a_drain_that_fails_leaves_the_node_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr("kvtide_cachenode.control.admin.drain", broken)
    async with serving() as admin:
        admin.node.ready = True
        status, _ = await admin.say(b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert (status, admin.node.failures.total) == (500, {"admin": 1})
        assert (await admin.say(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200


async def test_a_drain_that_ends_when_the_node_is_stopping_makes_it_ready_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as admin:
        admin.node.ready = True

        async def stopped_meanwhile(*_: object) -> bool:
            admin.node.ready, admin.node.stopping = False, True
            raise CannotDrainError("nobody is there")

        monkeypatch.setattr("kvtide_cachenode.control.admin.drain", stopped_meanwhile)
        status, _ = await admin.say(b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert status == 409
        assert (await admin.say(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 503


def test_an_epoch_is_reached_in_steps_that_others_can_follow() -> None:
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)

    async def adopt(epoch: int) -> None:
        me = Member(node.node_id, "127.0.0.1", 1, MI)
        first = first_topology([me])
        node.cluster.adopt(Topology(epoch, first.nodes, first.slots))
        await node.cluster.stop()

    asyncio.run(adopt(FIRST_EPOCH_MOST))
    asyncio.run(adopt(FIRST_EPOCH_MOST + EPOCHS_AT_ONCE))
    with pytest.raises(Exception, match="too far beyond"):
        asyncio.run(adopt(FIRST_EPOCH_MOST + 2 * EPOCHS_AT_ONCE + 1))
    assert node.cluster.epoch == FIRST_EPOCH_MOST + EPOCHS_AT_ONCE


BEARER = b"Bearer " + TOKEN.encode()
HEADS: dict[str, tuple[bytes, int]] = {
    "a space before the colon": (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nAuthorization : %s\r\n\r\n", 400),
    "a header over two lines": (b"GET /v1/status HTTP/1.1\r\nAuthorization:\r\n %s\r\n\r\n", 400),
    "a version that is none": (b"GET /v1/status HTTP/x\r\nAuthorization: %s\r\n\r\n", 400),
    "a method that is none": (b"G\x00T / HTTP/1.1\r\nAuthorization: %s\r\n\r\n", 400),
    "a long header": (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000 + b"\r\nAuthorization: %s\r\n\r\n", 400),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 500 + b"Authorization: %s\r\n\r\n", 400),
    "a long path": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nAuthorization: %s\r\n\r\n", 400),
    "a wrong length": (b"PUT /v1/capacity HTTP/1.1\r\nContent-Length: x\r\nAuthorization: %s\r\n\r\n", 400),
    "wrong chunks": (
        b"PUT /v1/capacity HTTP/1.1\r\nTransfer-Encoding: chunked\r\nAuthorization: %s\r\n\r\nxyz\r\n",
        400,
    ),
    "bytes that are no text": (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nAuthorization: \xff%s\r\n\r\n", 401),
    "another token": (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nAuthorization: x%s\r\n\r\n", 401),
    "a name and no password": (b"GET /v1/status HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %s\r\n\r\n", 401),
    "OPTIONS": (b"OPTIONS /v1/status HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n", 405),
    "another method": (b"DELETE /v1/desired HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n", 405),
    "no such path": (b"GET /v1/%%ff%%0a HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n", 404),
    "a position that is none": (
        b"GET /v1/trace?since=%%ff HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n",
        400,
    ),
    "a wide position": (
        b"GET /v1/trace?since=" + b"9" * 7000 + b" HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\n\r\n",
        400,
    ),
    "an expectation": (
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nAuthorization: %s\r\n\r\n",
        417,
    ),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_is_wrong_is_refused_and_no_secret_is_logged(name: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    said, expected = HEADS[name]
    async with serving(TOKEN) as admin:
        status, body = await admin.say(said % BEARER)
        assert status == expected
        assert TOKEN not in body
        assert admin.node.failures.total == {}
    assert TOKEN not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_compressed_body_is_refused() -> None:
    async with serving() as admin:
        for body in (gzip.compress(b'{"dram":"1Mi"}'), b"no gzip"):
            status, said = await admin.put("/v1/capacity", body, b"Content-Encoding: gzip")
            assert (status, "send it plain" in said) == (415, True)
        assert (await admin.put("/v1/capacity", b"x" * (4 * MI + 1)))[0] == 413


async def test_head_answers_without_a_body() -> None:
    async with serving() as admin:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(120):
            answered = await reader.read()
        assert answered.startswith(b"HTTP/1.1 200")
        assert answered.endswith(b"\r\n\r\n")
        writer.close()


async def test_a_defect_is_one_sentence_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as admin:
        monkeypatch.setattr(AdminServer, "status", lambda _: 1 // 0)
        status, said = await admin.say(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status == 500
        assert msgspec.json.decode(said, type=ErrorReply).error.count("\n") == 0
        assert admin.node.failures.total == {"admin": 1}


async def test_half_requests_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "MAX_CONNECTIONS", 8)
    halves = (
        b"",
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n",
        b"PUT /v1/capacity HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
    )
    async with serving() as admin, AsyncExitStack() as stack:
        kept_reader, kept = await asyncio.open_connection("127.0.0.1", admin.port)
        for number in range(60):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", admin.port)))
            half.send(halves[number % len(halves)])
            if number % 10 == 0:
                assert (await admin.say(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
                assert len(open_sockets(admin.port)) <= 8
            if number < 4:  # a client that has been answered is not the first to go
                kept.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await answer_from(kept_reader))[0] == 200
        kept.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await answer_from(kept_reader))[0] == 200
        kept.close()


def open_sockets(port: int) -> list[str]:
    """Connections that this process has accepted on ``port`` and has not closed."""
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    established = "01"
    return [line[2] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == established]


async def test_who_sends_nothing_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "IDLE_S", 0.1)
    monkeypatch.setattr(http_port, "BODY_S", 0.1)
    async with serving() as admin:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        async with asyncio.timeout(120):
            assert await reader.read() == b""
        writer.close()
        status, said = await admin.put("/v1/capacity", b"", b"Content-Length: 9")
        assert (status, "within" in said) == (408, True) or status == 400


async def test_a_slow_body_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "BODY_S", 0.1)
    async with serving() as admin:
        status, said = await admin.say(b"PUT /v1/capacity HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        assert (status, "within" in said) == (408, True)


async def test_slow_readers_of_the_trace_are_bounded_and_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "REPLY_S", 1.0)
    async with serving() as admin:
        for number in range(200):
            admin.node.trace.append_inferred(Inferred(number, list(range(2**52, 2**52 + 1000)), 0), 16)
        deaf = []
        for _ in range(http_port.MAX_LARGE):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", admin.port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
            writer.write(b"GET /v1/trace HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n")
            deaf.append((reader, writer))
        ask = b"GET /v1/trace?since=x:0 HTTP/1.1\r\nHost: a\r\n\r\n"
        assert (await admin.say(ask))[0] == 503
        assert (await admin.say(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
        async with asyncio.timeout(120):
            while (await admin.say(ask))[0] == 503:
                await asyncio.sleep(0.05)
        for _, writer in deaf:
            writer.close()
