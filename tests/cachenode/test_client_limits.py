"""Clients that hold what they can, before and after login: a bound for all, and nobody is locked out."""

import asyncio
import errno
import gc
import os
import resource
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.cachenode.raw_client import encoded, until

from kvtide_cachenode import client_memory
from kvtide_cachenode.access.users import Secret, Users
from kvtide_cachenode.client_memory import EACH_BYTES, LEAST_BYTES, UNCHARGED_BYTES, ClientMemory
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve import connection, server
from kvtide_cachenode.serve.commands.table import TABLE
from kvtide_cachenode.serve.connection import Connection
from kvtide_cachenode.serve.file_limit import RESERVED_FILES, connections_within
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.store import Store
from kvtide_cachenode.wire.events import Broken
from kvtide_cachenode.wire.resp import STRANGER_BYTES, STRANGER_RECEIVE_BYTES, RequestParser

MI = 1024 * 1024
FULL = b"-ERR max number of clients reached\r\n"
STRANGERS = 2_000  # whatever is allowed: the test says so


@asynccontextmanager
async def serving(password: bytes | None = None) -> AsyncIterator[tuple[Node, int]]:
    users = Users(None if password is None else Secret(None, password))
    node = Node(Store(64 * MI, 256 * MI, make_policy("lru")), block_tokens=16, users=users)
    data = DataServer(node)
    _, port = data.start("127.0.0.1", 0)
    try:
        yield node, port
    finally:
        await data.stop()
    assert node.clients.total_bytes == 0
    node.store.check()


class Talk:
    """A connection of a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, said: bytes) -> bytes:
        self.writer.write(said)
        return await asyncio.wait_for(self.reader.readline(), 120)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 120)


@asynccontextmanager
async def talk(port: int) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
        (b"*1000001\r\n$1\r\nx\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
        (b"*2\r\n$4\r\nAUTH\r\n$16384\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
        (
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16384\r\n",
            b"-ERR Protocol error: unauthenticated bulk length\r\n",
        ),
        (b"*3\r\n" + 2 * (b"$9000\r\n" + bytes(9000) + b"\r\n"), b"-ERR Protocol error: too big request\r\n"),
    ],
)
async def test_before_login_little_is_taken(said: bytes, reply: bytes) -> None:
    async with serving(b"secret") as (_, port):
        async with talk(port) as stranger:
            stranger.writer.write(said)
            assert await stranger.rest() == reply
        async with talk(port) as known:
            assert await known.ask(b"AUTH secret\r\n") == b"+OK\r\n"
            large = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n" + bytes(20_000) + b"\r\n"
            assert await known.ask(large) == b"+OK\r\n"
            many = b"*21\r\n$4\r\nMSET\r\n" + b"$1\r\na\r\n" * 20
            assert await known.ask(many) == b"+OK\r\n"


async def test_what_is_pipelined_behind_the_password_has_the_limits_of_a_client() -> None:
    async with serving(b"secret") as (_, port), talk(port) as client:
        many = b"*21\r\n$4\r\nMSET\r\n" + b"$1\r\na\r\n" * 20
        client.writer.write(b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n" + many + b"*1\r\n$4\r\nPING\r\n")
        assert [await client.reader.readline() for _ in range(3)] == [b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n"]


async def test_who_does_not_log_in_is_sent_away_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOGIN_S", 0.1)
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    async with serving(b"secret") as (node, port), talk(port) as stranger, talk(port) as known:
        assert await known.ask(b"AUTH secret\r\n") == b"+OK\r\n"
        assert (await stranger.ask(b"PING\r\n")).startswith(b"-NOAUTH")
        assert await stranger.rest() == b""
        assert node.connections_evicted == 1
        assert await known.ask(b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.parametrize("password", [None, b"secret"])
async def test_strangers_make_way_for_clients_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch, password: bytes | None
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    async with serving(password) as (node, port), talk(port) as known:
        first = b"PING\r\n" if password is None else b"AUTH secret\r\n"
        await known.ask(first)
        async with talk(port) as oldest, talk(port), talk(port) as newest:
            await until(lambda: len(node.sessions) == 4)
            async with talk(port) as late:
                assert (await late.ask(first))[:1] == b"+"
                assert await oldest.rest() == b""
                assert (await newest.ask(b"QUIT\r\n")) == b"+OK\r\n"
                assert (await known.ask(b"PING\r\n")) == b"+PONG\r\n"
        assert node.connections_evicted == 1


@pytest.mark.parametrize("password", [None, b"secret"])
async def test_above_the_limit_only_peers_stay(
    monkeypatch: pytest.MonkeyPatch, password: bytes | None
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(password) as (node, port), talk(port) as known:
        login = b"AUTH secret\r\n"
        assert (await known.ask(login if password else b"PING\r\n"))[:1] == b"+"
        async with talk(port) as other:
            if password:
                assert await other.ask(login) == b"+OK\r\n"
            assert await other.ask(b"PING\r\n") == FULL
            assert await other.rest() == b""
        await until(lambda: len(node.sessions) == 1)
        async with talk(port) as peer:
            if password:
                assert await peer.ask(login) == b"+OK\r\n"
            assert (await peer.ask(b"KVTIDE.PEER 0 %s\r\n" % (b"0" * 40))).startswith(b"$")
            await peer.reader.readline()
            assert await peer.ask(b"SET k v\r\n") == b"+OK\r\n"
        assert node.connections_evicted == 0


async def test_without_descriptors_accepting_pauses_goes_on_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "ACCEPT_PAUSE_S", 0.05)
    asked = 0

    class Exhausted(socket.socket):
        def accept(self) -> Any:
            nonlocal asked
            asked += 1
            if asked < 4:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    with monkeypatch.context() as patched:
        patched.setattr(server.socket, "socket", Exhausted)
        node = Node(Store(MI, MI, make_policy("lru")), block_tokens=16)
        data = DataServer(node)
        _, port = data.start("127.0.0.1", 0)
    try:
        async with talk(port) as client:
            assert await client.ask(b"PING\r\n") == b"+PONG\r\n"
        assert asked <= 8  # three pauses: not once a turn of the loop
        assert node.accept_pauses == 3
        assert caplog.text.count("no connection can be accepted for a moment: Too many open files") == 1
    finally:
        await data.stop()


def test_clients_leave_descriptors_for_the_rest(tmp_path: Path) -> None:
    store = Store(MI, MI, make_policy("lru"))
    assert connections_within(20_000, store) == 20_000 - RESERVED_FILES
    assert connections_within(600, store) == 600 - RESERVED_FILES
    assert connections_within(10, store) > 0


def test_a_node_raises_its_limit_of_files(start_node: Callable[..., Any]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = start_node("--dram", "16Mi").process.pid
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


class Holder:
    """A connection that only counts what becomes of it."""

    def __init__(self) -> None:
        self.told = ""

    def cut_off(self, sentence: str) -> None:
        self.told = sentence


async def test_who_holds_most_is_cut_off_and_the_sum_is_charged_to_the_tier() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    for number in range(600):
        store.put(b"key:%d" % number, bytes(100_000))
    clients = ClientMemory(store)
    holders = [Holder() for _ in range(5)]
    for _ in holders:
        clients.joined()
    limit_bytes = clients.limit_bytes
    assert limit_bytes == 32 * MI
    for size, holder in enumerate(holders, 4):
        clients.holds(holder, size * MI)
        store.check()
    assert store.used_bytes <= store.capacity_bytes
    assert clients.total_bytes == 30 * MI
    held = clients.total_bytes - UNCHARGED_BYTES
    assert store.used_bytes == held + sum(store.peek(key).charge for keys in store.hottest() for key in keys)
    clients.holds(holders[0], 7 * MI)
    await asyncio.sleep(0)
    assert [bool(holder.told) for holder in holders] == [False, False, False, False, True]
    assert clients.total_bytes <= limit_bytes
    for holder in holders:
        clients.left(holder)
    assert (clients.total_bytes, store.used_bytes) == (
        0,
        sum(store.peek(key).charge for keys in store.hottest() for key in keys),
    )
    store.check()


async def test_who_stays_does_not_get_the_room_of_those_that_were_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_memory, "CALM_S", 0.05)
    clients = ClientMemory(Store(1024 * MI, 1024 * MI, make_policy("lru")))
    for _ in range(STRANGERS):
        clients.joined()
    before = clients.limit_bytes
    for _ in range(STRANGERS):  # all but the last few are cut off, and leave
        gone = clients.cut_off
        clients.holds(Holder(), 2 * MI)
        if clients.cut_off > gone:
            clients.left(Holder())
        assert clients.total_bytes <= before + 2 * MI
    assert clients.cut_off > STRANGERS - 20
    assert clients.limit_bytes <= before
    await until(lambda: clients.limit_bytes > 2 * before)


async def test_however_many_are_served_before_the_loop_comes_round_the_sum_is_bound() -> None:
    clients = ClientMemory(Store(64 * MI, 64 * MI, make_policy("lru")))
    holders = [Holder() for _ in range(100)]
    for holder in holders:
        clients.joined()
        clients.holds(holder, 2 * MI)
        assert clients.total_bytes <= clients.limit_bytes + 2 * MI
    assert not holders[-1].told
    await asyncio.sleep(0)
    assert clients.total_bytes <= clients.limit_bytes


async def test_the_tier_makes_way_for_what_clients_hold_however_small_its_entries() -> None:
    store = Store(64 * MI, 64 * MI, make_policy("lru"))
    while store.used_bytes < 63 * MI:
        store.put(b"%d" % len(store), b"small")
    clients, holder = ClientMemory(store), Holder()
    clients.joined()
    clients.holds(holder, UNCHARGED_BYTES + 20 * MI)
    async with asyncio.timeout(120):
        while store.over_capacity():
            await asyncio.sleep(0)
    assert store.used_bytes > 62 * MI, "no more went than had to"
    clients.left(holder)
    store.check()


def test_the_more_connections_the_less_each_may_hold() -> None:
    clients = ClientMemory(Store(1024 * MI, 1024 * MI, make_policy("lru")))
    seen = []
    for _ in range(STRANGERS):
        clients.joined()
        seen.append((clients.limit_bytes, clients.unsent_bytes))
    assert seen == sorted(seen, reverse=True)
    limit_bytes, unsent_bytes = seen[-1]
    assert LEAST_BYTES <= limit_bytes <= 64 * MI - STRANGERS * EACH_BYTES // 4
    assert unsent_bytes * STRANGERS <= limit_bytes
    assert seen[0][1] == client_memory.MAX_UNSENT_BYTES


async def test_a_command_of_many_words_is_counted_while_it_arrives() -> None:
    async with serving() as (node, port), talk(port) as client:
        client.writer.write(b"*1000001\r\n" + b"$2\r\nab\r\n" * 100_000)
        await until(lambda: node.clients.total_bytes >= 100_000 * 48)
        node.store.check()
        client.writer.transport.abort()
        await until(lambda: not node.sessions)


async def test_a_command_of_many_words_is_counted_until_it_has_run() -> None:
    async with serving() as (node, port), talk(port) as client:
        node.store.put(b"k", bytes(200))
        client.writer.transport.pause_reading()
        client.writer.write(b"*100001\r\n$4\r\nMGET\r\n" + b"$1\r\nk\r\n" * 100_000)
        await until(lambda: any(session.queued_bytes > 250_000 for session in node.sessions.values()))
        assert node.clients.total_bytes >= 100_000 * 48
        client.writer.transport.resume_reading()
        await client.reader.readexactly(len(b"*100000\r\n") + 100_000 * len(b"$200\r\n\r\n" + bytes(200)))
        assert await client.ask(b"PING\r\n") == b"+PONG\r\n"
        await until(lambda: node.clients.total_bytes == 0)


async def test_who_owes_exec_for_what_is_queued_holds_the_tier_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "STALL_S", 0.2)
    monkeypatch.setattr(server, "SWEEP_S", 0.05)
    async with serving() as (node, port), talk(port) as client, talk(port) as idle:
        assert await idle.ask(b"MULTI\r\n") == b"+OK\r\n"
        assert await client.ask(b"MULTI\r\n") == b"+OK\r\n"
        large = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n" + bytes(200_000) + b"\r\n"
        assert await client.ask(large) == b"+QUEUED\r\n"
        assert node.store.used_bytes > 200_000
        assert await client.rest() == b""
        assert (node.stalled_total, node.store.used_bytes) == (1, 0)
        assert await idle.ask(b"EXEC\r\n") == b"*0\r\n"


async def test_what_waits_for_exec_is_counted() -> None:
    async with serving() as (node, port), talk(port) as client:
        assert await client.ask(b"MULTI\r\n") == b"+OK\r\n"
        for _ in range(5):
            assert await client.ask(b"*2\r\n$3\r\nGET\r\n$9000\r\n" + bytes(9000) + b"\r\n") == b"+QUEUED\r\n"
        assert node.clients.total_bytes >= 40_000
        assert await client.ask(b"EXEC\r\n") == b"*5\r\n"
        await until(lambda: node.clients.total_bytes == 0)


async def test_nothing_is_put_into_a_reply_that_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reply_half(session: Session) -> None:
        session.reply(b"$100\r\nhalf")
        await session.room(0)
        await asyncio.Event().wait()

    half = replace(TABLE[b"ASKING"], handler=lambda session, _: session.answer_later(reply_half(session)))
    monkeypatch.setitem(TABLE, b"HALF", half)
    node = Node(Store(MI, MI, make_policy("lru")), block_tokens=16)
    there, here = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    connection = Connection(loop, here, Session(node, 1, "test"), lambda _: None)
    with there:
        await loop.sock_sendall(there, b"HALF\r\n")
        assert await loop.sock_recv(there, 100) == b"$100\r\nhalf"
        connection.cut_off("it held too much")
        assert await loop.sock_recv(there, 100) == b""


async def test_replies_that_nobody_takes_are_counted() -> None:
    async with serving() as (node, port), talk(port) as client:
        node.store.put(b"k", bytes(2000))
        client.writer.transport.pause_reading()
        client.writer.write(b"GET k\r\n" * 20_000)
        await until(lambda: node.clients.total_bytes > 500_000)
        client.writer.transport.abort()
        await until(lambda: not node.sessions)


def test_a_parser_between_turns_has_no_buffer_and_loses_nothing() -> None:
    said = b"*2\r\n$3\r\nGET\r\n$5\r\nabcde\r\nPING\r\n*1\r\n$4\r\nPING\r\n" * 3
    for step in (1, 2, 3, 7, len(said)):
        parsers = [RequestParser() for _ in range(3)]
        events: list[list[object]] = [[] for _ in parsers]
        for start in range(0, len(said), step):
            piece = said[start : start + step]
            for parser, seen in zip(parsers, events, strict=True):
                (buffer,) = parser.buffers()
                buffer[: len(piece)] = piece
                parser.received(len(piece))
                while (event := parser.next_event()) is not None:
                    seen.append(event)
                parser.put_aside()
                assert parser.held_bytes <= 100
        wanted = [[b"GET", b"abcde"], [b"PING"], [b"PING"]] * 3
        assert events == [wanted] * 3


def test_a_stranger_holds_at_most_what_the_limits_say() -> None:
    parser = RequestParser()
    parser.restrict(stranger=True)
    said = (
        b"*10\r\n"
        + b"".join(b"$1600\r\n" + bytes(1600) + b"\r\n" for _ in range(9))
        + b"$1900\r\n"
        + bytes(1800)
    )
    start = 0
    while start < len(said):
        (buffer,) = parser.buffers()
        assert len(buffer) <= STRANGER_RECEIVE_BYTES
        piece = said[start : start + len(buffer)]
        start += len(piece)
        buffer[: len(piece)] = piece
        parser.received(len(piece))
        while (event := parser.next_event()) is not None:
            assert not isinstance(event, Broken)
        parser.put_aside()
        # An argument that is not whole is in the sum, and what of it is here is unparsed, too.
        assert parser.held_bytes <= 2 * STRANGER_BYTES


@contextmanager
def strangers(port: int, said: bytes) -> Iterator[list[socket.socket]]:
    """Connections that each say that, as far as it is taken, and read nothing."""
    with ExitStack() as stack:
        held = []
        for _ in range(STRANGERS - 10):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            held.append(sock)
        unsaid = dict.fromkeys(held, said)
        for _ in range(30):
            for sock, rest in list(unsaid.items()):
                try:
                    unsaid[sock] = rest[sock.send(rest) :]
                except BlockingIOError:
                    continue
                except OSError:
                    unsaid[sock] = b""
                if not unsaid[sock]:
                    del unsaid[sock]
            if not unsaid:
                break
            threading.Event().wait(0.02)
        yield held


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss")


WORST = {
    "a command without end": b"*1000001\r\n" + b"$2\r\nab\r\n" * 1_000,
    "almost a password": b"*2\r\n$4\r\nAUTH\r\n$16000\r\n" + b"z" * 15_900,
    "replies unread": (b"*2\r\n$4\r\nECHO\r\n$8000\r\n" + b"z" * 8000 + b"\r\n") * 20,
}


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * STRANGERS:
        pytest.skip("this user may not have so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("password", [None, "secret"])
def test_two_thousand_strangers_add_at_most_64_mib_and_lock_nobody_out(
    many_files: None, start_node: Callable[..., Any], tmp_path: Path, name: str, password: str | None
) -> None:
    options = []
    if password is not None:
        (tmp_path / "password").write_text(password)
        options = ["--password-file", str(tmp_path / "password")]
    node = start_node("--dram", "256Mi", *options)
    before = resident_bytes(node.process.pid)
    with strangers(node.port, WORST[name]):
        assert resident_bytes(node.process.pid) - before <= 64 * MI
        with redis.Redis(port=node.port, password=password) as client:
            assert client.set("k", "v") is True
            assert client.get("k") == b"v"


@pytest.mark.parametrize("said", [b"COMMAND DOCS", b"COMMAND INFO", b"COMMAND"])
async def test_the_more_connections_the_less_of_a_long_reply_is_queued(said: bytes) -> None:
    async with serving() as (node, port), talk(port) as client:
        for _ in range(STRANGERS):
            node.clients.joined()
        assert node.clients.unsent_bytes < 9_000
        client.writer.transport.pause_reading()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.writer.write((said + b"\r\n") * 10_000)
        (session,) = node.sessions.values()
        await until(lambda: session.queued_bytes > node.clients.unsent_bytes)
        assert session.queued_bytes < 3 * node.clients.unsent_bytes
        client.writer.transport.abort()
        await until(lambda: not node.sessions)


async def test_the_more_connections_the_less_of_a_pipeline_is_taken_in_at_once() -> None:
    async with serving() as (node, port), talk(port) as client:
        for _ in range(STRANGERS):
            node.clients.joined()
        client.writer.transport.pause_reading()
        client.writer.write(encoded([b"AUTH", b"wrong"]) * 200_000)
        (session,) = node.sessions.values()
        await until(lambda: session.queued_bytes > node.clients.unsent_bytes)
        assert node.clients.total_bytes < 32_000
        client.writer.transport.abort()
        await until(lambda: not node.sessions)


async def test_in_a_crowd_nobody_is_read_twice_in_a_round_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as many are ready, the loop's library goes on with them: others would wait for ever."""
    monkeypatch.setattr(connection, "CROWD", 1)
    made: list[Connection] = []

    class Known(Connection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    node = Node(Store(MI, MI, make_policy("lru")), block_tokens=16)
    data = DataServer(node, Known)
    _, port = data.start("127.0.0.1", 0)
    try:
        with socket.create_connection(("127.0.0.1", port)) as client:
            await until(lambda: bool(made))
            for _ in range(3):  # no await: this is one round
                client.sendall(b"PING\r\n")
                made[0]._readable()
            assert node.commands_total == 1
            await until(lambda: node.commands_total == 3)
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"+PONG\r\n" * 3
    finally:
        await data.stop()


async def test_what_a_closed_connection_held_is_free_without_the_collector() -> None:
    """Garbage in cycles is collected by the number of objects: gigabytes may wait in a few."""
    made: list[weakref.ref[Connection]] = []

    class Known(Connection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    node = Node(Store(MI, MI, make_policy("lru")), block_tokens=16)
    data = DataServer(node, Known)
    _, port = data.start("127.0.0.1", 0)
    gc.disable()
    try:
        async with talk(port) as client:
            client.writer.write(b"*2\r\n$4\r\nECHO\r\n$2000000\r\n" + bytes(1000))
            await until(lambda: node.clients.total_bytes > 0)
            client.writer.transport.abort()
            await until(lambda: not node.sessions)
        await until(lambda: made[0]() is None)
    finally:
        gc.enable()
        await data.stop()
