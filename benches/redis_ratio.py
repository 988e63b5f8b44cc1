"""GET and SET of the node against redis on the same machine, with redis-benchmark, side by side.

    python benches/redis_ratio.py [--sizes 64Ki,1Mi,4Mi] [--connections 1,16] [--rounds 5] [--json]

Node and redis run at the same time and take turns, round by round, so that what else the machine does falls
on both; the ratio of each round is taken and the median ratio is reported, with the lowest and the highest.
"""

import argparse
import csv
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from kvtide_cachenode.quantity import parse_quantity

START_S = 15.0
BENCHMARK_S = 300.0


@dataclass(frozen=True)
class Ratio:
    """One operation at one size and concurrency; rates are medians in GB/s (1e9 bytes)."""

    operation: str
    size_bytes: int
    connections: int
    node_gb_s: float
    redis_gb_s: float
    ratio: float
    lowest: float
    highest: float


@contextmanager
def node(dram: str) -> Iterator[int]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dram", dram]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["listen"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def rates(port: int, size_bytes: int, connections: int, requests: int) -> dict[str, float]:
    """Requests per second by operation."""
    command = ["redis-benchmark", "-p", str(port), "-t", "set,get", "-d", str(size_bytes)]
    command += ["-c", str(connections), "-n", str(requests), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BENCHMARK_S)
    rows = csv.DictReader(done.stdout.splitlines())
    return {row["test"]: float(row["rps"]) for row in rows}


def measure(
    ports: tuple[int, int], size_bytes: int, connections: int, rounds: int, volume_bytes: int
) -> Iterator[Ratio]:
    requests = max(volume_bytes // size_bytes, 10 * connections)
    seen: dict[str, list[tuple[float, float]]] = {"SET": [], "GET": []}
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        found = {which: rates(ports[which], size_bytes, connections, requests) for which in order}
        if number:  # the first round warms both up
            for operation, pairs in seen.items():
                pairs.append((found[0][operation], found[1][operation]))
    for operation, pairs in seen.items():
        ratios = [ours / theirs for ours, theirs in pairs]
        yield Ratio(
            operation,
            size_bytes,
            connections,
            statistics.median(ours for ours, _ in pairs) * size_bytes / 1e9,
            statistics.median(theirs for _, theirs in pairs) * size_bytes / 1e9,
            statistics.median(ratios),
            min(ratios),
            max(ratios),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", default="64Ki,1Mi,4Mi,16Mi")
    parser.add_argument("--connections", default="1,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--volume", default="1Gi", help="bytes moved per round and operation")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for tool in ("redis-server", "redis-benchmark"):
        if shutil.which(tool) is None:
            parser.exit(2, f"{tool} is not on PATH: install redis\n")
    if not given.json:
        print(f"{'':4}{'size':>9}{'conns':>6}{'node GB/s':>11}{'redis GB/s':>11}{'ratio':>7}   spread")
    ratios = []
    with node("2Gi") as node_port, redis() as redis_port:
        for size in map(parse_quantity, given.sizes.split(",")):
            for connections in map(int, given.connections.split(",")):
                ports = (node_port, redis_port)
                for ratio in measure(ports, size, connections, given.rounds, parse_quantity(given.volume)):
                    ratios.append(asdict(ratio))
                    if not given.json:
                        print(
                            f"{ratio.operation:4}{size:9}{connections:6}{ratio.node_gb_s:11.2f}"
                            f"{ratio.redis_gb_s:11.2f}{ratio.ratio:7.2f}"
                            f"   {ratio.lowest:.2f}-{ratio.highest:.2f}",
                            flush=True,
                        )
    if given.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
