"""GET, SET, EXISTS and MGET of the node against redis on the same machine with the same client, side by side.

    python benches/redis_ratio.py [--client lean|redis-benchmark] [--sizes 64Ki,1Mi,4Mi,16Mi]
                                  [--connections 1,4,16] [--rounds 5] [--seconds 0.4] [--json]

Node and redis run at the same time and take turns, round by round, so that what else the machine does falls
on both; the ratio of each round is taken and the median ratio is reported, with the lowest and the highest.
The lean client (lean_client.py) copies nothing twice; redis-benchmark copies each reply three times, which on
two cores hides most of what a server does. With the lean client, GET is also measured against the limit: a
bare loop that sends one buffer (BARE; its column is "redis GB/s").
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
from pathlib import Path

from lean_client import DEPTH, KEYS, SMALL_VALUE_BYTES

from kvtide_cachenode.quantity import parse_quantity

FOLDER = Path(__file__).parent
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


@contextmanager
def bare(size_bytes: int) -> Iterator[int]:
    """A loop of receive and send, in a process of its own, that answers everything with one buffer."""
    command = [sys.executable, str(FOLDER / "bare_loop.py"), str(size_bytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def lean_rate(port: int, case: str, size_bytes: int, connections: int, seconds: float) -> float:
    """Round trips per second of the lean client."""
    command = [sys.executable, str(FOLDER / "lean_client.py"), str(port), case, str(size_bytes)]
    command += [str(connections), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BENCHMARK_S)
    return float(done.stdout)


def measure_lean(
    case: str, ports: tuple[int, int], size_bytes: int, connections: int, rounds: int, seconds: float
) -> Ratio:
    """Node against redis; in the case BARE the node's GET against the loop."""
    pairs = []
    for number in range(rounds + 1):
        found = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            asked = "GET" if case == "BARE" and which == 0 else case
            found[which] = lean_rate(ports[which], asked, size_bytes, connections, seconds)
        if number:
            pairs.append((found[0], found[1]))
    return summary(case, size_bytes, connections, pairs)


def summary(operation: str, size_bytes: int, connections: int, pairs: list[tuple[float, float]]) -> Ratio:
    ratios = [ours / theirs for ours, theirs in pairs]
    return Ratio(
        operation,
        size_bytes,
        connections,
        statistics.median(ours for ours, _ in pairs) * size_bytes / 1e9,
        statistics.median(theirs for _, theirs in pairs) * size_bytes / 1e9,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


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
        yield summary(operation, size_bytes, connections, pairs)


def lean_ratios(ports: tuple[int, int], given: argparse.Namespace) -> Iterator[Ratio]:
    """All cases of the lean client. The many-key cases move 64 keys, or values of 256 bytes, at once."""
    connections = list(map(int, given.connections.split(",")))
    for size in map(parse_quantity, given.sizes.split(",")):
        for case in ("SET", "GET"):
            for count in connections:
                yield measure_lean(case, ports, size, count, given.rounds, given.seconds)
        with bare(size) as limit:
            yield measure_lean("BARE", (ports[0], limit), size, 1, given.rounds, given.seconds)
    many = {"EXISTS": KEYS * DEPTH, "EXISTS1": KEYS, "MGET": KEYS * DEPTH * SMALL_VALUE_BYTES}
    for case, moved in many.items():
        yield measure_lean(case, ports, moved, 1, given.rounds, given.seconds)


def benchmark_ratios(ports: tuple[int, int], given: argparse.Namespace) -> Iterator[Ratio]:
    """GET and SET as redis-benchmark sees them."""
    for size in map(parse_quantity, given.sizes.split(",")):
        for count in map(int, given.connections.split(",")):
            yield from measure(ports, size, count, given.rounds, parse_quantity(given.volume))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", default="64Ki,1Mi,4Mi,16Mi")
    parser.add_argument("--client", choices=["lean", "redis-benchmark"], default="lean")
    parser.add_argument("--connections", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement of the lean client")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--volume", default="1Gi", help="bytes redis-benchmark moves a round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for tool in ("redis-server", "redis-benchmark"):
        if shutil.which(tool) is None:
            parser.exit(2, f"{tool} is not on PATH: install redis\n")
    if not given.json:
        print(f"{'':8}{'size':>9}{'conns':>6}{'node GB/s':>11}{'redis GB/s':>11}{'ratio':>7}   spread")
    ratios = []
    with node("2Gi") as node_port, redis() as redis_port:
        measured = lean_ratios if given.client == "lean" else benchmark_ratios
        for ratio in measured((node_port, redis_port), given):
            ratios.append(asdict(ratio))
            if not given.json:
                print(
                    f"{ratio.operation:8}{ratio.size_bytes:9}{ratio.connections:6}{ratio.node_gb_s:11.2f}"
                    f"{ratio.redis_gb_s:11.2f}{ratio.ratio:7.2f}   {ratio.lowest:.2f}-{ratio.highest:.2f}",
                    flush=True,
                )
    if given.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
