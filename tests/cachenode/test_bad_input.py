"""What clients do wrong: each gets a clear error, and nothing else is lost."""

import asyncio
from typing import Any

from tests.cachenode.raw_client import talk, until

MI = 1024 * 1024


async def answer_and_end(port: int, said: bytes) -> bytes:
    async with talk(port) as (reader, writer):
        writer.write(said)
        return await asyncio.wait_for(reader.read(), 120)


async def test_what_is_not_resp_is_answered_and_closed(served: Any) -> None:
    cases = {
        b"*1\r\n+PING\r\n": b"-ERR Protocol error: expected '$', got '+'\r\n",
        b"*99999999\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
        b"*2\r\n$3\r\nGET\r\n$600000000\r\n": b"-ERR Protocol error: invalid bulk length\r\n",
        b"x" * 70_000: b"-ERR Protocol error: too big inline request\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\nSET a 1\r\n": b"-ERR this is not an HTTP port\r\n",
        b"QUIT\r\nSET a 1\r\n": b"+OK\r\n",
    }
    for said, reply in cases.items():
        assert await answer_and_end(served.port, said) == reply
    assert len(served.node.store) == 0
    await until(lambda: not served.node.sessions)


async def test_half_a_value_then_close_keeps_the_old_one(served: Any) -> None:
    store = served.node.store
    store.put(b"k", b"old" * 10_000)
    used = store.used_bytes
    async with talk(served.port) as (_, writer):
        writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n" + bytes(500_000))
        await writer.drain()
        await until(lambda: store.used_bytes > used + 1_000_000)
    await until(lambda: not served.node.sessions)
    assert store.used_bytes == used
    assert store.value(store.peek(b"k")) == b"old" * 10_000


async def test_a_client_that_does_not_read_is_not_read_from(served: Any) -> None:
    store = served.node.store
    store.put(b"k", bytes(MI))
    async with talk(served.port) as (_, writer):
        transport = writer.transport
        writer.write(b"GET k\r\n" * 5000)
        (session,) = (await _session(served),)
        await until(lambda: session.queued_bytes > MI)
        before = session.queued_bytes
        writer.write(b"GET k\r\n" * 5000)
        await asyncio.sleep(0.05)
        assert session.queued_bytes <= before + 2 * MI
        assert store.peek(b"k").pins <= 3
        transport.abort()
    await until(lambda: not served.node.sessions)
    assert store.peek(b"k").pins == 0


async def _session(served: Any) -> Any:
    await until(lambda: bool(served.node.sessions))
    return next(iter(served.node.sessions.values()))


async def test_replies_before_a_half_close_are_all_sent(served: Any) -> None:
    served.node.store.put(b"k", bytes(4 * MI))
    async with talk(served.port) as (reader, writer):
        writer.write(b"GET k\r\n" * 8)
        writer.write_eof()
        received = 0
        while piece := await asyncio.wait_for(reader.read(MI), 120):
            received += len(piece)
    assert received == 8 * (len(b"$4194304\r\n\r\n") + 4 * MI)
