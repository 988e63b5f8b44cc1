"""A node whose DRAM has no room for what is on its SSD: answers, and an end to every command."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import redis.asyncio as aioredis
from redis import ResponseError

from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import SsdLog, TieredStore

from .conftest import MI
from .test_tiered_store import FailingFiles, block, fill_with_others, quiet

VALUE = b"small" * 100
Exchange = Callable[["aioredis.Redis[bytes]"], Awaitable[bytes]]
EXCHANGES: list[Exchange] = [
    lambda client: client.set("k", "new", get=True),
    lambda client: client.getset("k", "new"),
    lambda client: client.getdel("k"),
]


@pytest.fixture
def files() -> FailingFiles:
    return FailingFiles()


@pytest.fixture
async def store(tmp_path: Path, files: FailingFiles) -> AsyncIterator[TieredStore]:
    """Holds ``k`` on the SSD and not in DRAM."""
    log = await SsdLog.open(tmp_path, 256 * MI, time.time, files=files)
    store = TieredStore(4 * MI, 64 * MI, make_policy("lru"), log)
    store.put(b"k", VALUE)
    for number in range(50):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert store.below(b"k")
    yield store
    await store.close(0)


@pytest.fixture
async def client(store: TieredStore) -> AsyncIterator["aioredis.Redis[bytes]"]:
    server = DataServer(Node(store, block_tokens=16))
    _, port = server.start("127.0.0.1", 0)
    async with aioredis.Redis(port=port) as client:
        yield client
    await server.stop()


@pytest.mark.parametrize("exchange", EXCHANGES, ids=["set get", "getset", "getdel"])
async def test_it_is_read_from_the_ssd_and_an_exchange_of_it_refused(
    store: TieredStore, client: "aioredis.Redis[bytes]", exchange: Exchange
) -> None:
    fill_with_others(store)
    async with asyncio.timeout(120):
        assert await client.get("k") == VALUE
        with pytest.raises(ResponseError, match="no room in DRAM"):
            await exchange(client)
        assert await client.get("k") == VALUE
        store.charge_beside("others", 0)
        assert await exchange(client) == VALUE


@pytest.mark.parametrize("exchange", EXCHANGES, ids=["set get", "getset", "getdel"])
async def test_an_exchange_of_what_a_disk_does_not_give_is_refused(
    store: TieredStore, files: FailingFiles, client: "aioredis.Redis[bytes]", exchange: Exchange
) -> None:
    files.broken = errno.EIO
    async with asyncio.timeout(120):
        with pytest.raises(ResponseError, match="cannot be read now"):
            await exchange(client)
        files.broken = 0
        assert await exchange(client) == VALUE
