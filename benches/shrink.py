"""A shrink at full load: latency meanwhile, memory afterwards, and the hit ratio against a node born small.

    python -m benches.shrink [--from 4Gi --to 1Gi --value 1Mi] [--ssd 8Gi --directory DIR] [--json]

Two nodes, one after the other, get the same requests by the same clients, each of which works through a
sequence of its own: GET, every byte compared, and SET after a miss. Node one is born large and is shrunk at
half time; node two is born small. Latencies are of GETs that hit, in the 3 s before, and from the shrink's
request to its answer (a second of it at least). Hit ratios, and the latency of the new size at rest, are of
the last third of each sequence.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.quantity import parse_quantity

CLIENTS = 2  # processes, as many as cores
SKEW = 0.7
MEMORY_BACK_S = 5.0


@contextmanager
def node(dram_bytes: int, ssd: list[str]) -> Iterator[tuple[int, str, int]]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--dram", str(dram_bytes), *ssd]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        try:
            yield int(said["listen"].rpartition(":")[2]), f"http://{said['admin']}", process.pid
        finally:
            process.kill()


def sequence(seed: int, keys: int, requests: int) -> list[int]:
    """Keys by a power law: key ``k`` is asked for in proportion to ``(k + 1) ** -SKEW``."""
    rng = random.Random(seed)
    weights = [(key + 1) ** -SKEW for key in range(keys)]
    return rng.choices(range(keys), weights, k=requests)


class Client:
    def __init__(self, port: int, value_bytes: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.value_bytes = value_bytes
        self.body = memoryview(random.Random(0).randbytes(value_bytes - 16))
        self.buffer = memoryview(bytearray(value_bytes + 64))
        self.wrong = 0

    def get(self, key: int) -> bool:
        self.socket.sendall(b"*2\r\n$3\r\nGET\r\n$10\r\n%010d\r\n" % key)
        got = self.socket.recv_into(self.buffer)
        if bytes(self.buffer[:5]) == b"$-1\r\n":
            return False
        head = b"$%d\r\n" % self.value_bytes
        whole = len(head) + self.value_bytes + 2
        while got < whole:
            count = self.socket.recv_into(self.buffer[got:])
            assert count, f"the node closed the connection: {bytes(self.buffer[:80])!r}"
            got += count
        start = len(head)
        self.wrong += bytes(self.buffer[:start]) != head
        self.wrong += bytes(self.buffer[start : start + 16]) != b"%016d" % key
        self.wrong += self.buffer[start + 16 : start + self.value_bytes] != self.body
        return True

    def set(self, key: int) -> None:
        self.socket.sendmsg(
            [b"*3\r\n$3\r\nSET\r\n$10\r\n%010d\r\n$%d\r\n%016d" % (key, self.value_bytes, key)]
        )
        self.socket.sendall(self.body)
        self.socket.sendall(b"\r\n")
        answer = self.socket.recv(200)
        assert answer == b"+OK\r\n", answer


Sample = tuple[float, float, bool]
"""When a GET was answered (time.monotonic, the same in all processes), how long it took, whether it hit."""


def work(
    port: int, value_bytes: int, keys: list[int], warmed: Event, queue: "multiprocessing.Queue[object]"
) -> None:
    client = Client(port, value_bytes)
    samples: list[Sample] = []
    for at, key in enumerate(keys):
        if at == len(keys) // 2:
            warmed.set()
        began_s = time.monotonic()
        hit = client.get(key)
        ended_s = time.monotonic()
        samples.append((ended_s, ended_s - began_s, hit))
        if not hit:
            client.set(key)
    queue.put((samples, client.wrong))


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} says no VmRSS")


async def shrunk(url: str, pid: int, to_bytes: int) -> dict[str, float]:
    async with NodeClient(url) as admin:
        began_s = time.monotonic()
        status = await admin.set_capacity(dram_bytes=to_bytes)
        answered_s = time.monotonic()
        limit = to_bytes * 1.03 + (64 << 20)
        while (resident := resident_bytes(pid)) > limit and time.monotonic() - began_s < 30:
            await asyncio.sleep(0.01)
        return {
            "began_s": began_s,
            "ended_s": max(answered_s, began_s + 1),
            "answered_after_s": answered_s - began_s,
            "memory_back_after_s": time.monotonic() - began_s,
            "resident_mib": resident / 2**20,
            "unfinished": float(status.resize is not None),
        }


async def dropped(url: str) -> int:
    async with NodeClient(url) as admin:
        return (await admin.status()).counters.get("demotions_dropped", 0)


def run(
    dram_bytes: int, to_bytes: int | None, options: argparse.Namespace, requests: int, ssd: list[str]
) -> tuple[list[list[Sample]], int, dict[str, float]]:
    keys = int(options.working_set * options.from_bytes / options.value_bytes)
    figures: dict[str, float] = {}
    with node(dram_bytes, ssd) as (port, url, pid):
        queue: multiprocessing.Queue[object] = multiprocessing.Queue()
        warmed = [multiprocessing.Event() for _ in range(CLIENTS)]
        clients = [
            multiprocessing.Process(
                target=work,
                args=(port, options.value_bytes, sequence(seed, keys, requests), warmed[seed], queue),
            )
            for seed in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        if to_bytes is not None:
            for event in warmed:
                assert event.wait(300), "the clients did not get to half of their requests"
            figures = asyncio.run(shrunk(url, pid, to_bytes))
        results: list[Any] = [queue.get(timeout=300) for _ in clients]
        figures["dropped_entries"] = asyncio.run(dropped(url))
        for client in clients:
            client.join()
    parts = [samples for samples, _ in results]
    return parts, sum(wrong for _, wrong in results), figures


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


def hit_ratio(parts: list[list[Sample]]) -> float:
    return statistics.fmean(hit for samples in parts for *_, hit in samples[len(samples) * 2 // 3 :])


def last_hits(parts: list[list[Sample]]) -> list[float]:
    """Seconds of each GET that hit in the last third: what the new size costs when it has settled."""
    return [took for samples in parts for _, took, hit in samples[len(samples) * 2 // 3 :] if hit]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="from_bytes", type=parse_quantity, default="4Gi")
    parser.add_argument("--to", dest="to_bytes", type=parse_quantity, default="1Gi")
    parser.add_argument("--value", dest="value_bytes", type=parse_quantity, default="1Mi")
    parser.add_argument("--working-set", type=float, default=1.5, help="in units of --from")
    parser.add_argument("--requests", type=int, default=12_000, help="of each client")
    parser.add_argument("--ssd", help="capacity of an SSD tier")
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        ssd = ["--ssd", options.ssd, "--ssd-path", f"{path}/a"] if options.ssd else []
        parts, wrong, figures = run(options.from_bytes, options.to_bytes, options, options.requests, ssd)
        small_ssd = [*ssd[:3], f"{path}/b"] if ssd else []
        born_small, wrong_small, _ = run(options.to_bytes, None, options, options.requests, small_ssd)
    began_s, ended_s = figures.pop("began_s"), figures.pop("ended_s")
    samples = [sample for part in parts for sample in part]
    before = [took for at, took, hit in samples if hit and began_s - 3 <= at < began_s]
    during = [took for at, took, hit in samples if hit and began_s <= at < ended_s]
    figures |= {
        "wrong_values": wrong + wrong_small,
        "p99_before_ms": 1e3 * percentile(before, 0.99),
        "p99_during_ms": 1e3 * percentile(during, 0.99),
        "p99_after_ms": 1e3 * percentile(last_hits(parts), 0.99),
        "p99_born_small_ms": 1e3 * percentile(last_hits(born_small), 0.99),
        "gets_before": len(before),
        "gets_during": len(during),
        "hit_ratio_shrunk": hit_ratio(parts),
        "hit_ratio_born_small": hit_ratio(born_small),
    }
    figures["p99_ratio"] = figures["p99_during_ms"] / figures["p99_before_ms"]
    figures["hit_ratio_difference"] = figures["hit_ratio_shrunk"] - figures["hit_ratio_born_small"]
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:22} {value:10.4f}")
    good = (
        not figures["wrong_values"]
        and figures["p99_ratio"] <= 2
        and figures["memory_back_after_s"] <= MEMORY_BACK_S
        and abs(figures["hit_ratio_difference"]) <= 0.01
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
