"""A form that only this test knows, bytes reversed, is served right by everything that hands out values.

One registration is all that it takes: what begins with its magic is in it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers.drain import drain
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.lm_connection import LmConnection
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import CapacityError, SsdLog, Store, TieredStore
from kvtide_cachenode.store.form import FORMS
from kvtide_cachenode.wire import lm

from .conftest import MI
from .test_tiered_store import block, quiet

MAGIC = b"REV1"
SIZES = {"inline": 500, "extent": 64 * 1024, "streamed": MI}


class Reversed:
    """Bytes in the reverse order."""

    def decoded(self, encoded: bytes | memoryview) -> bytes:
        return bytes(encoded[: len(MAGIC) - 1 : -1])


def encoded(value: bytes) -> bytes:
    return MAGIC + value[::-1]


@pytest.fixture(autouse=True)
def _reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, MAGIC, Reversed())


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def value(request: pytest.FixtureRequest) -> bytes:
    length: int = request.param
    return random.Random(length).randbytes(length)


@asynccontextmanager
async def tiered(path: Path) -> AsyncIterator[TieredStore]:
    store = TieredStore(4 * MI, 64 * MI, make_policy("lru"), await SsdLog.open(path, 256 * MI, time.time))
    yield store
    await store.close(10)
    store.check()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TieredStore]:
    async with tiered(tmp_path) as store:
        yield store


@asynccontextmanager
async def client_of(node: Node) -> AsyncIterator["aioredis.Redis[bytes]"]:
    server = DataServer(node)
    host, port = server.start("127.0.0.1", 0)
    node.listen = f"{host}:{port}"
    async with aioredis.Redis(port=port) as client:
        yield client
    await server.stop()
    assert node.failures.total == {}


@pytest.fixture
async def client(store: TieredStore) -> AsyncIterator["aioredis.Redis[bytes]"]:
    async with client_of(Node(store, block_tokens=16)) as client:
        yield client


async def push_down(store: TieredStore, key: bytes) -> None:
    """Have a key on the SSD alone."""
    for number in range(200):
        if store.below(key):
            return
        store.put(b"other-%d" % number, block(number))
        await quiet(store)
    raise AssertionError("the key stays in DRAM")


@pytest.mark.parametrize("below", [False, True], ids=["dram", "ssd"])
async def test_every_command_that_hands_out_a_value_decodes_it(
    store: TieredStore, client: "aioredis.Redis[bytes]", value: bytes, below: bool
) -> None:
    async def lay() -> None:
        await client.set("k", encoded(value))
        if below:
            await push_down(store, b"k")

    await lay()
    assert await client.get("k") == value
    await lay()
    assert await client.mget("absent", "k", "k") == [None, value, value]
    if below and len(value) == MI:  # an exchange needs the old value in DRAM, which is not worth it
        return
    await lay()
    assert await client.set("k", b"plain", get=True) == value
    assert await client.get("k") == b"plain"
    await lay()
    assert await client.getdel("k") == value
    assert await client.get("k") is None


async def test_what_lies_there_is_what_was_sent(store: TieredStore, client: "aioredis.Redis[bytes]") -> None:
    await client.set("k", encoded(b"value" * 1000))
    entry = store.peek(b"k")
    assert entry is not None
    assert store.value(entry) == encoded(b"value" * 1000)
    await client.set("k", b"plain")
    assert await client.get("k") == b"plain"


@pytest.mark.parametrize("below", [False, True], ids=["dram", "ssd"])
async def test_lm_gives_it_decoded(store: TieredStore, value: bytes, below: bool) -> None:
    description = lm._METADATA.pack(lm._MARK, 1, 3, 0, 2, 32, 8, 1024)
    store.put(lm.KEY_PREFIX + b"k", encoded(description + value))
    if below:
        await push_down(store, lm.KEY_PREFIX + b"k")
    node = Node(store, block_tokens=16)
    server = DataServer(node, LmConnection, full=b"")
    _, port = server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    get = lm._REQUEST.pack(2, 0, 1, 3, 0, 2, 32, 8, 1024, b"k".ljust(lm.KEY_BYTES))
    writer.write(get)
    head = await reader.readexactly(len(lm.NO))
    assert head[:8] == (200).to_bytes(4, "little") + len(value).to_bytes(4, "little")
    assert await reader.readexactly(len(value)) == value
    writer.close()
    await writer.wait_closed()
    await server.stop()
    assert node.failures.total == {}


async def test_it_outlives_a_restart(tmp_path: Path, value: bytes) -> None:
    async with tiered(tmp_path / "ssd") as store:
        store.put(b"k", encoded(value))
        await quiet(store)
    async with tiered(tmp_path / "ssd") as store:
        assert store.below(b"k")
        async with client_of(Node(store, block_tokens=16)) as client:
            assert await client.get("k") == value


async def test_it_is_forwarded_decoded_and_moved_as_it_lies(tmp_path: Path, value: bytes) -> None:
    """Two nodes: asked through the other one, then drained to the other one."""
    async with AsyncExitStack() as stack:
        ssd = await stack.enter_async_context(tiered(tmp_path / "ssd"))
        nodes = [Node(one, block_tokens=16) for one in (ssd, Store(32 * MI, 64 * MI, make_policy("lru")))]
        clients = [await stack.enter_async_context(client_of(node)) for node in nodes]
        members = []
        for node in nodes:
            assert node.listen is not None
            port = int(node.listen.rpartition(":")[2])
            members.append(Member(node.node_id, "127.0.0.1", port, node.store.capacity_bytes))
        topology = first_topology(members)
        for node in nodes:
            stack.push_async_callback(node.cluster.stop)
            node.cluster.adopt(topology)
        mine = topology.index[nodes[0].node_id]
        key = next(key for key in map(str, range(1000)) if topology.owners[key_slot(key.encode())] == mine)
        await clients[1].set(key, encoded(value))
        assert ssd.exists(key.encode())
        assert await clients[1].get(key) == value
        assert await clients[0].get(key) == value
        async with asyncio.timeout(20):
            assert await drain(nodes[0].cluster, 5.0)
        entry = nodes[1].store.peek(key.encode())
        assert entry is not None
        assert nodes[1].store.value(entry) == encoded(value)
        assert not ssd.exists(key.encode())
        assert await clients[1].get(key) == value
        assert await clients[0].get(key) == value


async def test_a_stream_that_has_no_room_to_be_decoded_is_refused(
    store: TieredStore, client: "aioredis.Redis[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    value = random.Random(1).randbytes(MI)
    await client.set("k", encoded(value))
    await push_down(store, b"k")
    used_bytes = store.used_bytes

    def full(*_: object) -> None:
        raise CapacityError("no room")

    with monkeypatch.context() as without:
        without.setattr(store, "reserve_whole", full)
        with pytest.raises(aioredis.ResponseError, match="no room"):
            await client.get("k")
    assert store.used_bytes == used_bytes
    assert await client.get("k") == value
