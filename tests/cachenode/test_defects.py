"""An exception nobody expected ends its connection after an error; no later reply is taken for the lost one.

Every command runs with a store whose Nth use fails, for every N until the command no longer comes that far.
"""

import asyncio
from typing import Any

import pytest
from tests.cachenode.raw_client import encoded, said, talk, until

from kvtide_cachenode.node import Node

MI = 1024 * 1024
FAILURE = b"-ERR internal error: the node has logged it and closes this connection\r\n"
COMMANDS = [
    b"GET k", b"GET absent", b"MGET k absent k", b"EXISTS k l", b"DEL k l", b"UNLINK k", b"TOUCH k l",
    b"STRLEN k", b"TYPE k", b"TTL k", b"PTTL k", b"PERSIST k", b"MEMORY USAGE k", b"SET n v",
    b"SET k v XX GET", b"SET k v NX GET", b"GETSET k v", b"SETNX n v", b"MSET a 1 b 2", b"GETDEL k",
    b"DBSIZE", b"FLUSHALL", b"SCAN 0", b"INFO", b"CONFIG GET maxmemory",
    b"CLUSTER COUNTKEYSINSLOT 1", b"KVTIDE.PEER 1 x",
    b"MGET" + b" k" * 300, b"EXISTS" + b" k" * 300, b"DEL" + b" k" * 300, b"MSET" + b" k v" * 300,
]  # fmt: skip


class BrokenError(Exception):
    """What nobody expects."""


class Failing:
    """A store whose ``nth`` use raises."""

    def __init__(self, store: Any, nth: int) -> None:
        self._store = store
        self._left = nth

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name.startswith("_") or not callable(attribute) or name in ("unpin", "abort"):
            return attribute

        def used(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise BrokenError(name)
            return attribute(*arguments)

        return used

    def __len__(self) -> int:
        return len(self._store)

    @property
    def failed(self) -> bool:
        return self._left <= 0


def fill(node: Node) -> None:
    node.store.put(b"k", bytes(100))
    node.store.put(b"l", bytes(70_000))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:24].decode().replace(" ", "_"))
async def test_a_defect_ends_its_connection_after_an_error(served: Any, command: bytes) -> None:
    node, store = served.node, served.node.store
    inline = encoded(command.split())
    for nth in range(1, 40):
        fill(node)
        node.store = failing = Failing(store, nth)
        reply = await said(served.port, b"ECHO before\r\n" + inline + b"ECHO after\r\n")
        node.store = store
        await until(lambda: not node.sessions)
        assert reply.startswith(b"$6\r\nbefore\r\n")
        if not failing.failed:
            assert reply.endswith(b"$5\r\nafter\r\n")
            break
        assert b"after" not in reply, "the command behind a defect is not run on this connection"
        assert reply.endswith(FAILURE) or not reply.endswith(b"\r\n$5\r\nafter\r\n")
        assert node.failures.total["command"] == nth
    store.check()


async def test_a_defect_while_a_large_value_arrives(served: Any) -> None:
    node, store = served.node, served.node.store
    node.store = Failing(store, 1)
    reply = await said(served.port, encoded([b"SET", b"k", bytes(100_000)]) + b"PING\r\n")
    node.store = store
    assert reply == FAILURE
    await until(lambda: not node.sessions)
    assert store.used_bytes == 0
    store.check()


async def test_a_defect_in_a_callback_ends_the_connection(served: Any, monkeypatch: Any) -> None:
    async with talk(served.port) as (reader, writer):
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        (session,) = served.node.sessions.values()

        def report() -> None:
            raise BrokenError

        monkeypatch.setattr(session, "report", report)
        writer.write(b"PING\r\n")
        assert await asyncio.wait_for(reader.read(), 120) == b"+PONG\r\n"
    await until(lambda: not served.node.sessions)
    assert served.node.failures.total["connection"] >= 1


async def test_a_defect_at_the_end_leaves_nothing_of_a_value_that_was_arriving(
    served: Any, monkeypatch: Any
) -> None:
    def report() -> None:
        raise BrokenError

    async with talk(served.port) as (_, writer):
        writer.write(encoded([b"SET", b"k", bytes(100_000)])[:50_000])
        await until(lambda: served.node.store.used_bytes > 100_000)
        (session,) = served.node.sessions.values()
        monkeypatch.setattr(session, "report", report)
        writer.transport.abort()
    await until(lambda: not served.node.sessions)
    assert served.node.store.used_bytes == 0
    assert served.node.failures.total["connection"] >= 1
