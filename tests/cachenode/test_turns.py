"""Nothing holds the loop for long: what is done between two of its turns is counted."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from tests.cachenode.raw_client import encoded, said, talk, until

from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.process.turns import TURN_S, Turns
from kvtide_cachenode.serve import commands, connection
from kvtide_cachenode.serve.commands import TABLE
from kvtide_cachenode.serve.commands.transaction import MAX_KEYS
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.wire.resp import RequestParser

# What one piece of work takes by the tests' clock.
PIECE_S = TURN_S / 50


class Clock:
    """Moves on by what is worked, and by nothing else."""

    def __init__(self) -> None:
        self.pieces = 0

    def __call__(self) -> float:
        return self.pieces * PIECE_S

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, which takes its time."""

        def worked(*arguments: Any) -> Any:
            self.pieces += 1
            return work(*arguments)

        return worked


async def most_in_a_turn(count: Callable[[], int], done: Callable[[], bool]) -> int:
    """By how much ``count`` rises at most between two turns of the loop."""
    most, before = 0, count()
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0)
            most, before = max(most, count() - before), count()
    return most


async def test_however_many_have_much_to_do_a_turn_is_short() -> None:
    clock = Clock()
    turns = Turns(clock)
    left = [100] * 60

    async def work(at: int) -> None:
        while left[at]:
            left[at] -= 1
            clock.pieces += 1
            await turns.share()

    def step(at: int) -> None:
        left[at] -= 1
        clock.pieces += 1
        if left[at]:
            turns.after(lambda: step(at))

    tasks = [asyncio.create_task(work(at)) for at in range(30)]
    for at in range(30, 60):
        turns.after(lambda at=at: step(at))  # type: ignore[misc]
    await asyncio.sleep(0)  # all have begun
    await asyncio.sleep(0)
    assert await most_in_a_turn(lambda: clock.pieces, lambda: not any(left)) <= 2 * 51
    await asyncio.gather(*tasks)


async def test_who_waits_may_be_cancelled_and_nobody_is_forgotten() -> None:
    clock = Clock()
    turns = Turns(clock)
    ended: list[int] = []

    async def work(at: int) -> None:
        for _ in range(5):
            clock.pieces += 100
            await turns.share()
        ended.append(at)

    tasks = [asyncio.create_task(work(at)) for at in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks, timeout=30)
    assert ended == [1, 3, 5, 7, 9]


async def test_many_long_pipelines_share_a_turn_and_a_ping_does_not_queue(served: Any) -> None:
    clock = Clock()
    served.node.turns = Turns(clock)
    served.node.store.get = clock.counted(served.node.store.get)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(talk(served.port)) for _ in range(40)]
        pinging, ping = await stack.enter_async_context(talk(served.port))
        await until(lambda: len(served.node.sessions) == 41)
        for _, writer in clients:
            writer.write(b"GET absent\r\n" * 500)
        await until(lambda: clock.pieces > 0)
        at_ping = clock.pieces
        ping.write(b"PING\r\n")

        async def pong() -> int:
            assert await pinging.readline() == b"+PONG\r\n"
            return clock.pieces

        answered = asyncio.create_task(pong())
        assert await most_in_a_turn(lambda: clock.pieces, lambda: clock.pieces == 20_000) < 250
        assert await answered - at_ping < 5_000, "as if it stood behind the others"
        for reader, _ in clients:
            assert await reader.readexactly(5 * 500) == b"$-1\r\n" * 500


async def test_a_long_commands_keys_are_told_to_the_trace_as_it_goes_on(
    served: Any, monkeypatch: Any
) -> None:
    """All of them at its end would hold the loop for seconds."""
    told, looked_up = 0, 0
    behind: list[int] = []
    access, exists = Client.access, served.node.store.exists

    def tell(client: Client, kind: Any, keys: Any, hits: Any, now_s: float) -> None:
        nonlocal told
        told += len(keys)
        behind.append(looked_up - told)
        assert len(keys) <= 256
        access(client, kind, keys, hits, now_s)

    def look_up(key: bytes) -> bool:
        nonlocal looked_up
        looked_up += 1
        return bool(exists(key))

    monkeypatch.setattr(Client, "access", tell)
    served.node.store.exists = look_up
    keys = [b"key-%d" % at for at in range(20_000)]
    assert await said(served.port, encoded([b"EXISTS", *keys])) == b":0\r\n"
    await until(lambda: told == 20_000)
    assert max(behind) < 1000
    behind.clear()
    await said(served.port, b"".join(encoded([b"EXISTS", key]) for key in keys[:3000]))
    assert max(behind) < 3000


async def test_nobody_comes_in_between_the_commands_of_exec(served: Any) -> None:
    """Each command takes a whole turn, and yet others see all of a transaction or nothing."""
    clock = Clock()
    served.node.turns = Turns(clock)
    put = served.node.store.put

    def slow(key: bytes, value: bytes) -> None:
        clock.pieces += 100
        put(key, value)

    served.node.store.put = slow
    seen = set()
    async with talk(served.port) as (reader, writer), talk(served.port) as (other_reader, other):
        for serial in range(20):
            value = b"%02d" % serial
            sets = [encoded([b"SET", b"key-%d" % at, value]) for at in range(50)]
            sets.append(encoded([b"MSET", *(word for at in range(300) for word in (b"m%d" % at, value))]))
            writer.write(encoded([b"MULTI"]) + b"".join(sets) + encoded([b"EXEC"]))
            for _ in range(5):
                other.write(encoded([b"MGET", b"key-0", b"key-49", b"m0", b"m299"]))
                reply = await other_reader.readline()
                for _ in range(4):
                    if (line := await other_reader.readline()) != b"$-1\r\n":
                        line = await other_reader.readline()
                    reply += line
                seen.add(reply)
            await reader.readuntil(b"*51\r\n" + b"+OK\r\n" * 51)
    assert all(len(set(reply.split(b"\r\n")[1:5])) == 1 for reply in seen)


async def test_what_a_transaction_may_hold_the_loop_for_is_bounded_by_its_keys(served: Any) -> None:
    keys = [b"k%d" % at for at in range(MAX_KEYS // 2)]
    fits = encoded([b"EXISTS", *keys]) * 2
    reply = await said(served.port, encoded([b"MULTI"]) + fits + encoded([b"EXEC"]))
    assert reply == b"+OK\r\n" + b"+QUEUED\r\n" * 2 + b"*2\r\n:0\r\n:0\r\n"
    reply = await said(served.port, encoded([b"MULTI"]) + fits + b"PING\r\n" + encoded([b"EXEC"]))
    assert b"-ERR a transaction has at most 4096 commands and keys" in reply
    assert reply.endswith(b"-EXECABORT Transaction discarded because of previous errors.\r\n")


async def test_what_has_no_keys_lets_others_in_within_exec(served: Any, monkeypatch: Any) -> None:
    clock = Clock()
    served.node.turns = Turns(clock)
    info = TABLE[b"info"]
    monkeypatch.setitem(TABLE, b"info", replace(info, handler=clock.counted(info.handler)))
    async with talk(served.port) as (reader, writer):
        writer.write(encoded([b"MULTI"]) + b"INFO\r\n" * 500 + encoded([b"EXEC"]))
        assert await most_in_a_turn(lambda: clock.pieces, lambda: clock.pieces == 500) <= 52
        assert (await reader.readuntil(b"*500\r\n")).startswith(b"+OK\r\n+QUEUED")


async def test_a_long_list_of_words_is_freed_in_parts(served: Any, monkeypatch: Any) -> None:
    freed: list[int] = []
    kept: list[Request] = []
    free, execute = connection.Connection._free, commands.execute

    def run(session: Session, request: Request) -> None:
        kept.append(request)
        execute(session, request)

    def note(self: connection.Connection, words: list[bytes]) -> None:
        before = len(words)
        free(self, words)
        freed.append(before - len(words))

    monkeypatch.setattr(connection, "execute", run)
    monkeypatch.setattr(connection.Connection, "_free", note)
    words = [b"w"] * 100_000
    for long in ([b"NOSUCH", *words], [b"EXISTS", *words]):
        async with talk(served.port) as (reader, writer):
            writer.write(encoded(long))
            assert (await reader.readline())[:1] in b"-:"
            await until(lambda: len(kept[-1].words) <= connection.FREED_WORDS)
    assert max(freed) == connection.FREED_WORDS
    assert len(freed) >= 2 * (100_000 // connection.FREED_WORDS)


async def test_where_a_turn_is_over_little_is_taken_in(served: Any, monkeypatch: Any) -> None:
    """To split what 20 clients sent, 64 KiB of each, would be a long turn by itself."""
    clock = Clock()
    served.node.turns = Turns(clock)
    served.node.store.get = clock.counted(served.node.store.get)
    taken = 0
    received = RequestParser.received

    def count(self: RequestParser, size_bytes: int) -> None:
        nonlocal taken
        taken += size_bytes
        received(self, size_bytes)

    monkeypatch.setattr(RequestParser, "received", count)
    text = (b"GET " + b"k" * 100 + b"\r\n") * 1_000
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(talk(served.port)) for _ in range(20)]
        await until(lambda: len(served.node.sessions) == 20)
        for _, writer in clients:
            writer.write(text)
        most = await most_in_a_turn(lambda: taken, lambda: taken == 20 * len(text))
        assert most < 20 * 2 * connection.LITTLE_BYTES + 4 * 2 * 65_536
        for reader, _ in clients:
            await reader.readexactly(5 * 1_000)


async def test_transactions_of_many_clients_run_one_after_the_other(served: Any) -> None:
    clock = Clock()
    served.node.turns = Turns(clock)
    served.node.store.get = clock.counted(served.node.store.get)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(talk(served.port)) for _ in range(20)]
        for reader, writer in clients:
            writer.write(encoded([b"MULTI"]) + b"GET absent\r\n" * 100)
            await reader.readuntil(b"+OK\r\n" + b"+QUEUED\r\n" * 100)
        for _, writer in clients:
            writer.write(encoded([b"EXEC"]))
        assert await most_in_a_turn(lambda: clock.pieces, lambda: clock.pieces == 2_000) <= 200
        for reader, _ in clients:
            await reader.readuntil(b"*100\r\n" + b"$-1\r\n" * 100)
