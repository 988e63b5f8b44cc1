"""Values that pipelined commands ask for are read from the SSD together, and answered in their order."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cachenode.raw_client import encoded, talk, until

from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve.connection import READ_AHEAD
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import SsdLog, TieredStore
from kvtide_cachenode.store.ssd.files import Files

from .conftest import MI
from .test_tiered_store import block, quiet

WANTED = 12


class HeldFiles(Files):
    """Files whose reads wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.waiting += not self.gate.is_set()
        assert self.gate.wait(20)
        return super().preadv(fd, buffers, offset)


async def test_values_behind_one_that_is_waited_for_are_read_with_it(tmp_path: Path) -> None:
    files = HeldFiles()
    log = await SsdLog.open(tmp_path, 256 * MI, time.time, files=files)
    store = TieredStore(8 * MI, 64 * MI, make_policy("lru"), log)
    for number in range(100):
        store.put(b"%d" % number, block(number))
        await quiet(store)
    assert all(store.below(b"%d" % number) for number in range(WANTED))
    server = DataServer(Node(store, block_tokens=16))
    _, port = server.start("127.0.0.1", 0)
    commands = [(b"GET", b"%d" % number) for number in range(WANTED)]
    commands[3:3] = [(b"SET", b"4", b"new"), (b"PING",)]
    wanted = b"".join(b"$200000\r\n%b\r\n" % block(number) for number in range(3)) + b"+OK\r\n+PONG\r\n"
    for number in range(3, WANTED):
        value = b"new" if number == 4 else block(number)
        wanted += b"$%d\r\n%b\r\n" % (len(value), value)
    files.gate.clear()
    async with talk(port) as (reader, writer):
        writer.write(b"".join(map(encoded, commands)))
        await until(lambda: len(store._reading) >= READ_AHEAD // 2)
        assert files.waiting  # none is there yet
        files.gate.set()
        assert await asyncio.wait_for(reader.readexactly(len(wanted)), 120) == wanted
    await server.stop()
    await store.close(0)
