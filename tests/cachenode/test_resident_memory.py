"""What the kernel counts stays below the cap, the process and 3 %, whatever is stored after what."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from kvtide_cachenode.contract.sizing import PROCESS_BYTES
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.heap import Heap
from kvtide_cachenode.store import Store

from .conftest import MI, Process

CAP = 48 * MI
ALLOWED = CAP * 103 // 100 + 64 * MI


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def fill(client: "redis.Redis[bytes]", name: str, count: int, length: int) -> None:
    value = bytes(length)
    for first in range(0, count, 250):
        pipeline = client.pipeline(transaction=False)
        for number in range(first, min(first + 250, count)):
            pipeline.set(f"{name}{number}", value)
        pipeline.execute()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("tiers", ["dram", "dram and ssd"])
def test_small_values_make_way_for_large_ones_and_back(
    start_node: Callable[..., Process], tmp_path: Path, tiers: str
) -> None:
    options = ["--ssd", "1Gi", "--ssd-path", str(tmp_path)] if "ssd" in tiers else []
    node = start_node("--dram", str(CAP), *options)
    with redis.Redis(port=node.port) as client:
        for name, count, length in [("s", 20_000, 2000), ("l", 60, MI), ("t", 20_000, 10), ("m", 60, MI)]:
            fill(client, name, count, length)
            assert resident_bytes(node.process.pid) <= ALLOWED, f"after {count} values of {length} bytes"
        gone = random.Random(1).sample(range(20_000), 15_000)
        for first in range(0, len(gone), 1000):
            client.delete(*(f"t{number}" for number in gone[first : first + 1000]))
        fill(client, "l", 60, MI)
        assert resident_bytes(node.process.pid) <= ALLOWED, "after deletes here and there"
        client.flushall()
        assert client.dbsize() == 0
        said = client.info("memory")["used_memory_rss"]
        assert abs(said - resident_bytes(node.process.pid)) < 8 * MI


CHURN = """
import sys
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.process.heap import process_heap
from kvtide_cachenode.store import Store
heap, capacity = process_heap(), int(sys.argv[1])
store = Store(capacity, capacity, make_policy("lru"))
before = heap.resident_bytes()
for number in range(int(sys.argv[2])):
    store.put(b"key:%08d" % number, bytes(1000))
print(len(store), heap.resident_bytes() - before)
"""


@pytest.mark.parametrize("capacity", [66 * MI, 73 * MI])
def test_small_entries_take_what_they_are_charged_once_many_have_come_and_gone(capacity: int) -> None:
    """A few more than fill a power of two: dictionaries have grown to the next one."""
    command = [sys.executable, "-c", CHURN, str(capacity), "150000"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    _, taken_bytes = map(int, said.split())
    assert taken_bytes <= capacity


async def test_what_the_process_holds_besides_makes_room_though_nobody_writes() -> None:
    store = Store(16 * MI, 64 * MI, make_policy("lru"))
    for number in range(100):
        store.put(b"%d" % number, bytes(MI // 4))
    full, leaked = store.used_bytes, 3 * MI
    store.watch_memory(Heap(lambda: None, lambda: PROCESS_BYTES + full + leaked))
    await store.maintain()
    assert not store.over_capacity()
    assert store.used_bytes > 12 * MI, "no more went than had to"
    store.check()
