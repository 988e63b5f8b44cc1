"""Commands of many keys: one reply, built in pieces, while others are served."""

import asyncio
from typing import Any

from tests.cachenode.raw_client import encoded, said, talk, until

COUNT = 3_000
KEYS = [b"key-%d" % number for number in range(COUNT)]


async def test_each_command_of_many_keys_has_its_one_reply(served: Any) -> None:
    pairs = [word for key in KEYS for word in (key, key * 3)]
    large = bytes(20_000)
    pairs[1] = pairs[-1] = large
    values = [large, *(key * 3 for key in KEYS[1:-1]), large]
    mget = b"*%d\r\n" % COUNT + b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
    for command, reply in [
        ([b"MSET", *pairs], b"+OK\r\n"),
        ([b"MGET", *KEYS], mget),
        ([b"EXISTS", *KEYS, b"absent"], b":%d\r\n" % COUNT),
        ([b"TOUCH", *KEYS, b"absent"], b":%d\r\n" % COUNT),
        ([b"UNLINK", *KEYS[:1000]], b":1000\r\n"),
        ([b"DEL", *KEYS], b":%d\r\n" % (COUNT - 1000)),
        ([b"MSET", *pairs[:-1]], b"-ERR wrong number of arguments for 'mset' command\r\n"),
        ([b"SET", *[b"NX"] * 2000], b"-ERR wrong number of arguments for 'set' command\r\n"),
    ]:
        assert await said(served.port, encoded(command) + b"PING\r\n") == reply + b"+PONG\r\n", command[0]
    assert len(served.node.store) == 0


async def test_a_reply_that_nobody_reads_stays_small(served: Any) -> None:
    store = served.node.store
    store.put(b"k", bytes(2000))
    store.put(b"large", bytes(4 * 1024 * 1024))
    long = b"K" * 15_000
    for number in range(500):
        store.put(long + b"%d" % number, b"")
    for command in [
        encoded([b"MGET", *[b"k"] * 100_000]),
        b"GET k\r\n" * 10_000,
        encoded([b"SCAN", b"0", b"COUNT", b"100000"]) * 200,
        encoded([b"COMMAND", b"INFO", *[b"get"] * 1000]) * 200,
        encoded([b"MULTI"]) + encoded([b"GET", b"k"]) * 4000 + encoded([b"EXEC"]),
    ]:
        most = 0
        async with talk(served.port) as (_, writer):
            writer.transport.set_write_buffer_limits(high=100 * 1024 * 1024)
            writer.write(command)
            await until(lambda: bool(served.node.sessions))
            (session,) = served.node.sessions.values()
            await until(lambda session=session: session.queued_bytes > 256 * 1024)
            for _ in range(50):
                await asyncio.sleep(0)
                most = max(most, sum(len(piece) for piece in session.out))
            writer.transport.abort()
        assert most < 2 * 1024 * 1024, command[:40]
        await until(lambda: not served.node.sessions)


async def test_the_old_value_of_a_set_is_not_copied(served: Any) -> None:
    store = served.node.store
    store.put(b"k", bytes(8 * 1024 * 1024))
    entry = store.peek(b"k")
    async with talk(served.port) as (_, writer):
        writer.write(b"SET k x NX GET\r\n" * 10)
        await until(lambda: entry.pins > 0)
        (session,) = served.node.sessions.values()
        assert all(isinstance(piece, memoryview) for piece in session.out if len(piece) > 100)
        writer.transport.abort()
    await until(lambda: not served.node.sessions)
    assert not entry.pins


async def test_others_are_served_between_parts(served: Any) -> None:
    store = served.node.store
    uses: list[int] = []
    exists = store.exists
    store.exists = lambda key: uses.append(1) or exists(key)
    async with talk(served.port) as (reader, writer), talk(served.port) as (other_reader, other_writer):
        other_writer.write(b"PING\r\n")
        assert await other_reader.readline() == b"+PONG\r\n"
        writer.write(encoded([b"EXISTS", *[b"k"] * 200_000]))
        await until(lambda: bool(uses))
        other_writer.write(b"PING\r\n")
        assert await asyncio.wait_for(other_reader.readline(), 120) == b"+PONG\r\n"
        assert len(uses) < 200_000, "PING waited for all parts"
        assert await asyncio.wait_for(reader.readline(), 120) == b":0\r\n"
