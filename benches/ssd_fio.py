"""The SSD log against fio: 4 MiB entries, same file system, size and depth; and the time of a restart.

    python -m benches.ssd_fio --directory DIR [--json]

Every round runs fio and the log one after the other, so that a noisy disk is noisy for both; the table
has the medians. The data (about 2 GiB) lies in DIR and is removed afterwards.
"""

import argparse
import asyncio
import json
import mmap
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from kvtide_cachenode.store.ssd.index import LogIndex
from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Stored

MIB = 1 << 20
ENTRY_BYTES = 4 * MIB
ENTRIES = 192
RESTART_ENTRIES = 100_000
WANTED = {"write": 0.8, "read": 0.85}


def fio_bytes_per_s(directory: Path, action: str, depth: int) -> float:
    share = ENTRIES // depth * ENTRY_BYTES
    command = [
        "fio", "--name=entries", f"--filename={directory / 'fio.data'}", f"--rw={action}",
        f"--bs={ENTRY_BYTES}", "--direct=1", "--ioengine=psync", "--thread", f"--numjobs={depth}",
        "--group_reporting", f"--offset_increment={share}", f"--size={share}", "--output-format=json",
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return float(report["jobs"][0][action]["bw_bytes"])


async def at_depth(
    depth: int, one: Callable[[int, memoryview], Awaitable[None]], memory: list[memoryview]
) -> float:
    """Run ``one`` for every entry, ``depth`` at a time; bytes a second."""
    numbers = iter(range(ENTRIES))

    async def work(buffer: memoryview) -> None:
        for number in numbers:
            await one(number, buffer)

    began = time.perf_counter()
    await asyncio.gather(*(work(memory[place]) for place in range(depth)))
    return ENTRIES * ENTRY_BYTES / (time.perf_counter() - began)


async def log_bytes_per_s(directory: Path, depth: int, memory: list[memoryview]) -> tuple[float, float]:
    """Bytes a second written and read; every value that is read is compared."""
    expected = [bytes(buffer) for buffer in memory]
    log = await SsdLog.open(directory / "log", 16 << 30, time.time)
    source: dict[int, int] = {}

    async def write(number: int, buffer: memoryview) -> None:
        source[number] = next(place for place, known in enumerate(memory) if known is buffer)
        assert isinstance(await log.put(b"entry-%d" % number, buffer, 0), Stored)

    async def read(number: int, buffer: memoryview) -> None:
        assert await log.get_into(b"entry-%d" % number, buffer) == ENTRY_BYTES
        assert buffer[:64] == expected[source[number]][:64]

    written = await at_depth(depth, write, memory)
    read_ = await at_depth(depth, read, [page_aligned() for _ in range(depth)])
    await log.clear()
    await log.set_cap(0)
    await log.close()
    return written, read_


def page_aligned() -> memoryview:
    return memoryview(mmap.mmap(-1, ENTRY_BYTES))


async def restart(directory: Path) -> dict[str, float]:
    """Seconds from opening 100,000 entries to the first value, after a clean stop and without a snapshot."""
    path = directory / "restart"
    log = await SsdLog.open(path, 8 << 30, time.time)
    value = memoryview(os.urandom(2000))

    async def put(share: int) -> None:
        for number in range(share, RESTART_ENTRIES, 16):
            assert isinstance(await log.put(b"vllm@model@1@0@%032x" % number, value, 0), Stored)

    await asyncio.gather(*(put(share) for share in range(16)))
    await log.close()
    figures = {}
    for name in ("clean stop", "no snapshot"):
        if name == "no snapshot":
            (path / "index.snapshot").unlink()
        began = time.perf_counter()
        log = await SsdLog.open(path, 8 << 30, time.time)
        assert await log.get_into(b"vllm@model@1@0@%032x" % 77, page_aligned()) == 2000
        figures[name] = time.perf_counter() - began
        assert len(log) == RESTART_ENTRIES
        await log.close()
    figures["whole node, process start included"] = node_start_s(path)
    return figures


def node_start_s(path: Path) -> float:
    """Seconds from starting a node on a directory of entries until it answered a GET of one of them."""
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--dram", "1Gi", "--ssd", "8Gi", "--ssd-path", str(path)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["listen"].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET vllm@model@1@0@%032x\r\n" % 77)
                assert client.recv(7, socket.MSG_WAITALL) == b"$2000\r\n"
                return time.perf_counter() - began
        finally:
            process.terminate()


def index_bytes_per_entry() -> float:
    """Memory of the index an entry, its key of 40 bytes included."""
    import tracemalloc

    tracemalloc.start()
    index = LogIndex()
    for number in range(RESTART_ENTRIES):
        index.insert(b"%040x" % number, (number // 64, number % 64 * 1025 + 4), ENTRY_BYTES, 1, number, 1e9)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / RESTART_ENTRIES


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    memory = [page_aligned() for _ in range(max(options.depths))]
    for place, buffer in enumerate(memory):
        buffer[:] = random.Random(place).randbytes(ENTRY_BYTES)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        for depth in options.depths:
            samples: dict[str, list[tuple[float, float]]] = {"write": [], "read": []}
            for _ in range(options.rounds):
                fio = {action: fio_bytes_per_s(directory, action, depth) for action in samples}
                (directory / "fio.data").unlink()
                written, read = uvloop.run(log_bytes_per_s(directory, depth, memory))
                samples["write"].append((fio["write"], written))
                samples["read"].append((fio["read"], read))
            for action, pairs in samples.items():
                fio_median, log_median = (statistics.median(column) for column in zip(*pairs, strict=True))
                rows.append(
                    {
                        "action": action,
                        "depth": depth,
                        "fio_bytes_per_s": round(fio_median),
                        "log_bytes_per_s": round(log_median),
                        "ratio": round(statistics.median(ours / theirs for theirs, ours in pairs), 3),
                        "wanted": WANTED[action],
                    }
                )
        restarts = uvloop.run(restart(directory))
    index_bytes = index_bytes_per_entry()
    if options.json:
        print(json.dumps({"rows": rows, "restart_s": restarts, "index_bytes_per_entry": index_bytes}))
        return 0
    print(f"{'':12} {'depth':>5} {'fio MB/s':>9} {'log MB/s':>9} {'ratio':>6} {'wanted':>7}")
    for row in rows:
        fio_mb, log_mb = row["fio_bytes_per_s"] / 1e6, row["log_bytes_per_s"] / 1e6
        print(
            f"{row['action']:12} {row['depth']:>5} {fio_mb:>9.0f} {log_mb:>9.0f} {row['ratio']:>6.2f} "
            f"{row['wanted']:>7.2f}"
        )
    for stop, seconds in restarts.items():
        print(f"restart with {RESTART_ENTRIES:,} entries, {stop}: {seconds:.2f} s to the first value")
    print(f"index: {index_bytes:.0f} bytes an entry")
    return 0


if __name__ == "__main__":
    sys.exit(main())
