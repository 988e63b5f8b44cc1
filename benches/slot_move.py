"""Three nodes behind one address while slots move: every key found, no wrong byte, the cost of the hop.

    python -m benches.slot_move [--seconds 20] [--lmcache-python VENV/bin/python] [--json]

First the cost of the hop: the same request sent to the key's owner and to another node. Then all slots of
one node move away and back, again and again, while clients read and verify what they wrote: redis-py through
one address, `RedisCluster`, `redis-cli -c`, an `lm://` client, and, where LMCache 0.5.6 is installed, its own
`basic_check` over `lm://`, `redis://` and `resp://`. (That tool does not end by itself after redis-protocol
checks, with redis neither: it is ended when it has printed its table.)
"""

import argparse
import functools
import json
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis

from kvtide_cachenode.cluster.handover import Handover, Send, plan_handover
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node, Topology

NODE_BYTES = 512 << 20
SIZES_BYTES = (4 << 10, 64 << 10, 1 << 20, 4 << 20)
KEYS = 60
LMCACHE_S = 120

Said = dict[str, Any]
"""What a node says when it is ready."""


class Client(Protocol):
    """What `verify` needs of a client."""

    def get(self, key: str) -> Any:
        """Read a value."""

    def set(self, key: str, value: bytes) -> object:
        """Store a value."""


@contextmanager
def node() -> Iterator[Said]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", str(NODE_BYTES)]
    for flag in ("--listen", "--lm", "--admin"):
        command += [flag, "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait()


def port_of(said: Said, name: str = "listen") -> int:
    return int(said[name].rpartition(":")[2])


def ask(said: Said, method: str, path: str, document: object = None) -> Any:
    body = None if document is None else msgspec.json.encode(document)
    request = urllib.request.Request(f"http://{said['admin']}{path}", method=method, data=body)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


def cluster_of(said: Said) -> Any:
    return ask(said, "GET", "/v1/status")["cluster"]


def adopt(said: Said, topology: Topology) -> None:
    document = {"term": 1, "generation": topology.epoch, "topology": topology}
    ask(said, "PUT", "/v1/desired", document)


class LmClient:
    """An `lm://` client with the two commands of redis-py that `verify` uses."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))

    def set(self, key: str, value: bytes) -> None:
        header = struct.pack("<9i150s", 1, len(value), 1, 3, 0, 2, 1, 1, 1, key.encode().ljust(150))
        self.socket.sendall(header)
        self.socket.sendall(value)

    def get(self, key: str) -> bytes | None:
        self.socket.sendall(struct.pack("<9i150s", 2, 0, 1, 3, 0, 2, 1, 1, 1, key.encode().ljust(150)))
        code, length, *_ = struct.unpack("<9i", self._receive(36))
        value = self._receive(length)
        return value if code == 200 else None

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return bytes(data)


class RedisCli:
    """`redis-cli -c`, one process a command."""

    def __init__(self, port: int) -> None:
        self.command = [shutil.which("redis-cli") or "redis-cli", "-c", "-p", str(port)]

    def set(self, key: str, value: bytes) -> None:
        subprocess.run([*self.command, "-x", "SET", key], input=value, check=True, capture_output=True)

    def get(self, key: str) -> bytes | None:
        run = subprocess.run([*self.command, "GET", key], check=True, capture_output=True)
        return run.stdout[:-1] or None


def hop_cost(nodes: list[Said], topology: Topology, members: list[Node]) -> list[dict[str, Any]]:
    """Median milliseconds of one request at the key's owner and through another node."""
    key = "hop"
    owner = members.index(topology.owner(key_slot(key.encode())))
    clients = [redis.Redis(port=port_of(nodes[at])) for at in (owner, (owner + 1) % 3)]
    rows = []
    for size in SIZES_BYTES:
        value = random.Random(size).randbytes(size)
        requests: dict[str, Callable[[redis.Redis], object]] = {
            "SET": functools.partial(redis.Redis.set, name=key, value=value),
            "GET": lambda client: client.get(key),
            "EXISTS": lambda client: client.exists(key),
        }
        for name, request in requests.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(60):
                for client, mine in zip(clients, times, strict=True):
                    began_s = time.perf_counter()
                    request(client)
                    mine.append(1e3 * (time.perf_counter() - began_s))
            direct_ms, hop_ms = map(statistics.median, times)
            rows.append(
                {"request": name, "size_bytes": size, "direct_ms": direct_ms, "through_another_ms": hop_ms}
            )
            if name == "EXISTS" and size != SIZES_BYTES[0]:
                rows.pop()
    for client in clients:
        client.close()
    return rows


def verify(name: str, client: Client, stop: threading.Event, found: dict[str, dict[str, int]]) -> None:
    """Read what was written, again and again, and overwrite some of it."""
    chance = random.Random(name)
    values = {
        f"{name}:{at}": chance.randbytes(chance.choice((9, 5000, 70_000, 900_000))) for at in range(KEYS)
    }
    counts = found[name] = {"reads": 0, "missing": 0, "wrong": 0, "errors": 0}
    for key, value in values.items():
        client.set(key, value)
    while not stop.is_set():
        for key, value in values.items():
            try:
                read = client.get(key)
            except (OSError, redis.RedisError, subprocess.CalledProcessError):
                counts["errors"] += 1
                continue
            counts["reads"] += 1
            counts["missing"] += read is None
            counts["wrong"] += read is not None and read != value
            if stop.is_set():
                return
        for key in chance.sample(sorted(values), 3):
            values[key] = chance.randbytes(len(values[key]))
            client.set(key, values[key])


def move(nodes: list[Said], handover: Handover) -> None:
    """Drive one handover to its end."""
    while True:
        clusters = [cluster_of(said) for said in nodes]
        epochs = {cluster["node_id"]: cluster["epoch"] for cluster in clusters}
        moving = handover.moving.epoch
        emptied = {c["node_id"] for c in clusters if c["emptied"] and c["epoch"] == moving}
        actions = handover.next_actions(epochs, emptied)
        if not actions:
            return
        for action in actions:
            if isinstance(action, Send):
                at = [cluster["node_id"] for cluster in clusters].index(action.node.id)
                adopt(nodes[at], action.topology)
        time.sleep(0.01)


def basic_check(python: str, url: str) -> dict[str, str] | str:
    """Pass rates that LMCache's own tool prints, by operation."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "lmcache.yaml"
        config.write_text(
            "chunk_size: 256\nlocal_cpu: true\nmax_local_cpu_size: 1\nremote_serde: naive\n"
            f"remote_url: {url}\n"
        )
        command = [python, "-u", "-m", "lmcache.v1.basic_check", "--mode", "test_remote"]
        rates: dict[str, str] = {}
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"LMCACHE_CONFIG_FILE": str(config), "PATH": "/usr/bin:/bin"},
        ) as process:
            timer = threading.Timer(LMCACHE_S, process.kill)
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                cells = [cell.strip() for cell in line.split("|")]
                if len(cells) > 6 and cells[6].endswith("%"):
                    rates[cells[1]] = cells[6]
                elif rates and not line.startswith(("|", "+", "-", "=")):
                    break
            timer.cancel()
            process.kill()
    return rates or "no table"


def under_moves(
    nodes: list[Said], topology: Topology, members: list[Node], seconds: float, lmcache_python: str | None
) -> dict[str, Any]:
    stop, found = threading.Event(), dict[str, dict[str, int]]()
    clients: dict[str, Client] = {
        "redis-py": redis.Redis(port=port_of(nodes[0])),
        "RedisCluster": redis.RedisCluster(host="127.0.0.1", port=port_of(nodes[1])),
        "redis-cli -c": RedisCli(port_of(nodes[2])),
        "lm://": LmClient(port_of(nodes[0], "lm")),
    }
    threads = [threading.Thread(target=verify, args=(n, c, stop, found)) for n, c in clients.items()]
    checks: dict[str, object] = {}
    if lmcache_python is not None:
        urls = [f"lm://127.0.0.1:{port_of(nodes[1], 'lm')}"]
        urls += [f"{scheme}://127.0.0.1:{port_of(nodes[1])}" for scheme in ("redis", "resp")]
        checks |= {url.partition(":")[0]: None for url in urls}

        def check() -> None:
            for url in urls:
                checks[url.partition(":")[0]] = basic_check(lmcache_python, url)

        threads.append(threading.Thread(target=check))
    for thread in threads:
        thread.start()
    moves, until_s = 0, time.monotonic() + seconds
    while time.monotonic() < until_s or (lmcache_python is not None and threads[-1].is_alive()):
        shares = (0, 1, 1) if moves % 2 == 0 else (1, 1, 1)
        sized = [Node(m.id, m.host, m.port, m.dram_bytes * s) for m, s in zip(members, shares, strict=True)]
        handover = plan_handover(topology, rebalanced(topology, sized))
        move(nodes, handover)
        topology = handover.moved
        moves += 1
    stop.set()
    for thread in threads:
        thread.join()
    clusters = [cluster_of(said) for said in nodes]
    totals = {
        name: sum(c[name] for c in clusters) for name in ("moved_entries", "moved_bytes", "left_entries")
    }
    totals |= {
        name: sum(c[name] for c in clusters) for name in ("forwarded", "forward_failures", "redirected")
    }
    return {"moves": moves, **totals, "clients": found, "lmcache": checks}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--lmcache-python", help="a Python that has lmcache 0.5.6")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        nodes = [stack.enter_context(node()) for _ in range(3)]
        members = [Node(cluster_of(s)["node_id"], "127.0.0.1", port_of(s), NODE_BYTES) for s in nodes]
        topology = first_topology(members)
        for said in nodes:
            adopt(said, topology)
        hop = hop_cost(nodes, topology, members)
        moved = under_moves(nodes, topology, members, options.seconds, options.lmcache_python)
    if options.json:
        print(json.dumps({"hop": hop, "slot_move": moved}, indent=2))
    else:
        print(f"{'':8}{'size':>9}{'owner ms':>10}{'hop ms':>9}{'extra ms':>10}")
        for row in hop:
            extra_ms = row["through_another_ms"] - row["direct_ms"]
            print(
                f"{row['request']:8}{row['size_bytes']:9}{row['direct_ms']:10.3f}"
                f"{row['through_another_ms']:9.3f}{extra_ms:10.3f}"
            )
        for name, value in moved.items():
            rows = value.items() if isinstance(value, dict) else [("", value)]
            for label, said in rows:
                print(f"{name} {label}: {said}")
    return int(any(c["missing"] or c["wrong"] or c["errors"] for c in moved["clients"].values()))


if __name__ == "__main__":
    sys.exit(main())
