"""MULTI: what is queued runs in a row, or not at all."""

from typing import Any

import redis.asyncio
from tests.cachenode.raw_client import encoded, said, until

from kvtide_cachenode.serve.commands.transaction import MAX_KEYS


async def test_the_default_pipeline_of_redis_py(served: Any) -> None:
    client = redis.asyncio.Redis(port=served.port)
    large = b"v" * 70_000
    pipeline = client.pipeline()
    pipeline.set("a", large).get("a").mget("a", "absent").set("a", "1", xx=True, get=True).delete("a").exists(
        "a"
    )
    assert await pipeline.execute() == [True, large, [large, None], large, 1, 0]
    await client.aclose()


async def test_it_runs_all_or_nothing(served: Any) -> None:
    queued = b"+QUEUED\r\n"
    assert await said(served.port, b"MULTI\r\nSET a 1\r\nGET a\r\nEXEC\r\n") == (
        b"+OK\r\n" + queued * 2 + b"*2\r\n+OK\r\n$1\r\n1\r\n"
    )
    for wrong in (b"NOSUCH\r\n", b"GET\r\n", b"WATCH a\r\n", encoded([b"GET", bytes(20_000)])):
        reply = await said(served.port, b"MULTI\r\nSET b 1\r\n" + wrong + b"EXEC\r\nEXISTS b\r\n")
        assert reply.endswith(b"-EXECABORT Transaction discarded because of previous errors.\r\n:0\r\n")
    assert await said(served.port, b"MULTI\r\nSET c 1\r\nDISCARD\r\nEXISTS c\r\nEXEC\r\n") == (
        b"+OK\r\n" + queued + b"+OK\r\n:0\r\n-ERR EXEC without MULTI\r\n"
    )
    assert (await said(served.port, b"MULTI\r\nMULTI\r\nEXEC\r\nDISCARD\r\n")).split(b"\r\n")[1:] == [
        b"-ERR MULTI calls can not be nested",
        b"*0",
        b"-ERR DISCARD without MULTI",
        b"",
    ]


async def test_what_is_queued_is_bounded_and_given_up_with_the_connection(served: Any) -> None:
    reply = await said(served.port, b"MULTI\r\n" + b"GET a\r\n" * (MAX_KEYS + 1) + b"EXEC\r\n")
    assert reply.count(b"+QUEUED") == MAX_KEYS
    assert b"-ERR a transaction has at most 4096 commands" in reply
    assert reply.endswith(b"-EXECABORT Transaction discarded because of previous errors.\r\n")
    store = served.node.store
    for end in (b"", b"RESET\r\n", b"QUIT\r\n"):
        await said(served.port, b"MULTI\r\n" + encoded([b"SET", b"k", bytes(100_000)]) + end)
        await until(lambda: not served.node.sessions)
        assert store.used_bytes == 0
