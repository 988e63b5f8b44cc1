"""The node against redis, and against what the machine can do at all, with the same client, side by side.

    python -m benches.redis_ratio [--sizes 64Ki,1Mi,4Mi,16Mi] [--connections 1,4,16] [--rounds 5]
                                  [--seconds 0.4] [--client redis-benchmark] [--no-many] [--json]

Node, redis and a bare socket loop (bare_loop.py: the *limit*, it receives a request into one buffer and
answers with another) run at the same time and take turns, round by round, so that what else the machine does
falls on all of them. Ratios are taken within a round; the median is reported, of node / redis with the lowest
and the highest. Where limit / redis is below a figure, no server written in Python reaches that figure here.

The lean client (lean_client.py) copies nothing twice; redis-benchmark copies each reply three times, which on
two cores hides most of what a server does. It cannot be answered by a bare loop.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benches.lean_client import DEPTH, KEYS, case, prepare

from kvtide_cachenode.contract.quantity import parse_quantity

FOLDER = Path(__file__).parent
START_S = 15.0
BENCHMARK_S = 300.0
# 16 commands of 64 keys under way on one connection, and 64 commands of one key.
MANY_KEYS = (("EXISTS", 256), ("EXISTS1", 256), ("MGET", 256), ("MGET", 4096))

Round = list[float]
"""Round trips a second of node, redis and, if measured, the limit."""


@dataclass(frozen=True)
class Row:
    """One operation at one size and concurrency; rates are medians, of keys for the many-key cases."""

    operation: str
    size_bytes: int
    connections: int
    node_gb_s: float
    redis_gb_s: float
    limit_gb_s: float | None
    ratio: float
    lowest: float
    highest: float
    node_to_limit: float | None
    limit_to_redis: float | None


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
def limit(operation: str, size_bytes: int) -> Iterator[int]:
    """A bare loop in a process of its own, for one case."""
    said, reply_bytes = case(operation, size_bytes)
    command = [sys.executable, str(FOLDER / "bare_loop.py"), str(len(said)), str(reply_bytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def lean_rate(port: int, operation: str, size_bytes: int, connections: int, seconds: float) -> float:
    """Round trips per second of the lean client."""
    command = [sys.executable, str(FOLDER / "lean_client.py"), str(port), operation, str(size_bytes)]
    command += [str(connections), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BENCHMARK_S)
    return float(done.stdout)


def in_turns(contenders: int, rounds: int, measure: Callable[[int], float]) -> list[Round]:
    """``rounds`` rounds behind one that warms up; who begins changes from round to round."""
    seen: list[Round] = []
    for number in range(rounds + 1):
        found = [0.0] * contenders
        for turn in range(contenders):
            which = (turn + number) % contenders
            found[which] = measure(which)
        if number:
            seen.append(found)
    return seen


def row(operation: str, size_bytes: int, connections: int, moved_bytes: int, rounds: list[Round]) -> Row:
    """``moved_bytes`` are a round trip's."""

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    ratios = [found[0] / found[1] for found in rounds]
    limited = len(rounds[0]) > 2
    return Row(
        operation,
        size_bytes,
        connections,
        median(lambda found: found[0]) * moved_bytes / 1e9,
        median(lambda found: found[1]) * moved_bytes / 1e9,
        median(lambda found: found[2]) * moved_bytes / 1e9 if limited else None,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        median(lambda found: found[0] / found[2]) if limited else None,
        median(lambda found: found[2] / found[1]) if limited else None,
    )


def lean_rows(ports: tuple[int, int], given: argparse.Namespace) -> Iterator[Row]:
    """All cases of the lean client."""
    sizes = list(map(parse_quantity, given.sizes.split(",")))
    counts = list(map(int, given.connections.split(",")))
    cells = [(name, size, count) for size in sizes for name in ("SET", "GET") for count in counts]
    for operation, size, count in cells + [(*many, 1) for many in MANY_KEYS if given.many]:
        for port in ports:
            prepare(port, operation, size)
        with limit(operation, size) as limit_port:
            at = (*ports, limit_port)
            rounds = in_turns(
                3,
                given.rounds,
                lambda which: lean_rate(at[which], operation, size, count, given.seconds),  # noqa: B023 - used here
            )
        moved = {"EXISTS": KEYS * DEPTH, "EXISTS1": KEYS, "MGET": KEYS * DEPTH * size}.get(operation, size)
        yield row(operation, size, count, moved, rounds)


def benchmark_rate(port: int, operation: str, size_bytes: int, connections: int, requests: int) -> float:
    """Requests per second as redis-benchmark sees them."""
    command = ["redis-benchmark", "-p", str(port), "-t", operation.lower(), "-d", str(size_bytes)]
    command += ["-c", str(connections), "-n", str(requests), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BENCHMARK_S)
    return float(next(csv.DictReader(done.stdout.splitlines()))["rps"])


def benchmark_rows(ports: tuple[int, int], given: argparse.Namespace) -> Iterator[Row]:
    """SET and GET as redis-benchmark sees them."""
    for size in map(parse_quantity, given.sizes.split(",")):
        for count in map(int, given.connections.split(",")):
            requests = max(parse_quantity(given.volume) // size, 10 * count)
            for operation in ("SET", "GET"):
                rounds = in_turns(
                    2,
                    given.rounds,
                    lambda which: benchmark_rate(ports[which], operation, size, count, requests),  # noqa: B023
                )
                yield row(operation, size, count, size, rounds)


def shown(found: Row) -> str:
    """One line of the table."""
    line = f"{found.operation:8}{found.size_bytes:9}{found.connections:6}"
    line += f"{found.node_gb_s:10.4g}{found.redis_gb_s:10.4g}{found.limit_gb_s or float('nan'):10.4g}"
    line += f"{found.ratio:11.2f} {f'({found.lowest:.2f}-{found.highest:.2f})':12}"
    return line + f"{found.node_to_limit or float('nan'):11.2f}{found.limit_to_redis or float('nan'):12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", default="64Ki,1Mi,4Mi,16Mi")
    parser.add_argument("--client", choices=["lean", "redis-benchmark"], default="lean")
    parser.add_argument("--connections", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement of the lean client")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--volume", default="1Gi", help="bytes redis-benchmark moves a round")
    parser.add_argument("--no-many", dest="many", action="store_false", help="leave out EXISTS and MGET")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for tool in ("redis-server", "redis-benchmark"):
        if shutil.which(tool) is None:
            parser.exit(2, f"{tool} is not on PATH: install redis\n")
    if not given.json:
        head = f"{'':8}{'size':>9}{'conns':>6}{'node':>10}{'redis':>10}{'limit':>10}"
        print(
            f"{head} {'node/redis':>10} {'':12}{'node/limit':>11}{'limit/redis':>12}   GB/s; EXISTS: Gkeys/s"
        )
    rows = []
    with node("2Gi") as node_port, redis() as redis_port:
        measured = lean_rows if given.client == "lean" else benchmark_rows
        for found in measured((node_port, redis_port), given):
            rows.append(asdict(found))
            if not given.json:
                print(shown(found), flush=True)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
