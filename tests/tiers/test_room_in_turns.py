"""Room for a large value among many small entries is made in parts, so that nobody waits for all of it."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded, talk

from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve import connection, lm_connection
from kvtide_cachenode.serve.commands import landing
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import Store
from kvtide_cachenode.store.reservation import GRANT_BYTES
from kvtide_cachenode.wire import lm

from .conftest import MI

AT_ONCE = 16
VALUE = random.Random(1).randbytes(3 * MI)


@pytest.fixture
def node() -> Node:
    """A tier full of small entries."""
    store = Store(4 * MI, 64 * MI, make_policy("lru"))
    number = 0
    while not store.counters.evictions:
        store.put(b"%d" % number, bytes(500))
        number += 1
    return Node(store, block_tokens=16)


@pytest.fixture
async def evicted(node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[list[int]]]:
    """For each turn of a connection, how many entries went for each piece of a value that came in it."""
    turns: list[list[int]] = []
    readable, grow = connection.Connection._readable, node.store.grow

    def counting_turns(self: connection.Connection) -> None:
        turns.append([])
        readable(self)

    def counting(*arguments: Any) -> bool:
        before = node.store.counters.evictions
        has_room = grow(*arguments)
        turns[-1].append(node.store.counters.evictions - before)
        return has_room

    monkeypatch.setattr(connection.Connection, "_readable", counting_turns)
    monkeypatch.setattr(node.store, "grow", counting)
    for module in (landing, lm_connection):
        monkeypatch.setattr(module, "EVICTED_AT_ONCE", AT_ONCE)
    yield turns
    node.store.check()


async def test_a_set(node: Node, evicted: list[list[int]]) -> None:
    server = DataServer(node)
    _, port = server.start("127.0.0.1", 0)
    async with talk(port) as (reader, writer):
        writer.write(encoded([b"SET", b"large", VALUE]) + encoded([b"PING"]))
        assert await asyncio.wait_for(reader.readexactly(12), 120) == b"+OK\r\n+PONG\r\n"
        assert node.store.value(node.store.get(b"large")) == VALUE
    await server.stop()
    few(evicted)


async def test_a_put_of_lm(node: Node, evicted: list[list[int]]) -> None:
    server = DataServer(node, lm_connection.LmConnection, full=b"")
    _, port = server.start("127.0.0.1", 0)
    async with talk(port) as (reader, writer):
        writer.write(struct.pack("<9i150s", 1, len(VALUE), 1, 3, 0, 2, 32, 8, 1024, b"large".ljust(150)))
        writer.write(VALUE)
        writer.write(struct.pack("<9i150s", 3, 0, 1, 3, 0, 2, 32, 8, 1024, b"large".ljust(150)))
        assert await asyncio.wait_for(reader.readexactly(36), 120) == lm.YES
    await server.stop()
    few(evicted)


def few(evicted: list[list[int]]) -> None:
    """In each turn no more than is allowed, and others had theirs after it."""
    assert sum(map(sum, evicted)) > GRANT_BYTES // 1000
    for turn in evicted:
        assert max(turn, default=0) <= AT_ONCE
        assert turn.count(AT_ONCE) <= 1
