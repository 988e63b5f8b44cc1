"""Capacity changes while clients read and write: nothing fails, nothing is wrong, memory goes back."""

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from kvtide_cachenode.contract.client import NodeClient, NodeRefused

MI = 1024 * 1024


def value_of(key: int) -> bytes:
    return random.Random(key).randbytes(2048) * 64  # 128 KiB


class Load(threading.Thread):
    """Reads and writes random keys of a set and compares every byte."""

    def __init__(self, port: int, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self.port, self.seed, self.stop = port, seed, stop
        self.operations = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        rng = random.Random(self.seed)
        values = {key: value_of(key) for key in range(300)}
        try:
            with redis.Redis(port=self.port) as client:
                while not self.stop.is_set():
                    key = rng.randrange(300)
                    found = client.get(f"k{key}")
                    if found is None:
                        client.set(f"k{key}", values[key])
                    elif found != values[key]:
                        self.wrong.append(f"k{key} has other bytes")
                    self.operations += 1
        except redis.RedisError as error:
            self.wrong.append(repr(error))


async def test_shrink_to_a_quarter_and_grow_again_under_load(start_node: Callable[..., Any]) -> None:
    process = start_node("--dram", "32Mi")
    stop = threading.Event()
    threads = [Load(process.port, seed, stop) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        async with NodeClient(process.admin_url) as admin:
            async with asyncio.timeout(120):
                while (await admin.status()).tiers["dram"].used_bytes < 30 * MI:
                    await asyncio.sleep(0.05)
            dram = (await admin.set_capacity(dram_bytes=8 * MI)).tiers["dram"]
            assert dram.used_bytes <= dram.capacity_bytes == 8 * MI
            assert dram.resident_bytes <= 8 * MI
            shrunk_at = [thread.operations for thread in threads]
            while [thread.operations - at for thread, at in zip(threads, shrunk_at, strict=True)] < [20] * 3:
                dram = (await admin.status()).tiers["dram"]
                assert dram.resident_bytes <= 8 * MI
                await asyncio.sleep(0.02)
            assert (await admin.set_capacity(dram_bytes=16 * MI)).tiers["dram"].capacity_bytes == 16 * MI
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [thread.wrong for thread in threads] == [[], [], []]
    assert all(thread.operations > 50 for thread in threads)


async def test_a_newer_size_takes_over_a_shrink_that_cannot_end(served: Any, admin: NodeClient) -> None:
    store = served.node.store
    store.put(b"k", bytes(MI))
    entry = store.peek(b"k")
    store.pin(entry)  # as a reply to a client that does not read
    shrink = asyncio.create_task(admin.set_capacity(dram_bytes=0))
    async with asyncio.timeout(120):
        while (resize := (await admin.status()).resize) is None:
            await asyncio.sleep(0.01)
    assert (resize.from_bytes, resize.to_bytes) == (32 * MI, 0)
    status = await admin.set_capacity(dram_bytes=64 * MI)
    assert (status.resize, status.tiers["dram"].capacity_bytes) == (None, 64 * MI)
    with pytest.raises(NodeRefused, match="a newer request set the capacity"):
        await shrink
    store.unpin(entry)


async def test_a_shrink_ends_when_the_reply_it_waits_for_is_sent(served: Any, admin: NodeClient) -> None:
    store = served.node.store
    store.put(b"k", bytes(MI))
    entry = store.peek(b"k")
    store.pin(entry)
    shrink = asyncio.create_task(admin.set_capacity(dram_bytes=0))
    async with asyncio.timeout(120):
        while store.exists(b"k"):
            await asyncio.sleep(0.01)
    store.unpin(entry)
    status = await shrink
    assert status.resize is None
    assert status.tiers["dram"].resident_bytes == 0
