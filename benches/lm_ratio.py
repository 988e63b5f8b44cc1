"""`lm://` PUT and GET: this node against LMCache's own `lmcache_server` and against the limit, side by side.

    python -m benches.lm_ratio --lmcache-server VENV/bin/lmcache_server [--json]

The servers run on this machine and get the same load from the same client, in turns; the *limit* is a bare
loop (bare_lm.py) that receives every payload into one buffer and sends it from there, with a thread for each
connection. The keys are few and overwritten, so that `lmcache_server`, which never evicts, stays within
`WORKING_SET_BYTES`. A PUT has no reply: a run of PUTs ends with an EXIST, whose reply says that all of them
were read. Each figure is the median of the rounds; the ratio is the median of the rounds' ratios. Where the
machine is the limit, the rates are alike and the servers' CPU time tells more.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from tests.ports import free_port

REQUEST = struct.Struct("<9i150s")
REPLY = struct.Struct("<9i")
PUT, GET, EXIST, HEALTH = 1, 2, 3, 5
SUCCESS = 200
WORKING_SET_BYTES = 128 << 20  # of each server, for every size and number of connections
SIZES_BYTES = (1 << 20, 4 << 20)
START_DEADLINE_S = 60  # lmcache_server imports torch first
REPLY_DEADLINE_S = 30

Address = tuple[str, int]
Server = tuple[Address, int]
"""Where it listens, and its process id."""


class Client:
    """One blocking connection that leaves copying to the server.

    A PUT sends pages of a memory file (`sendfile`), a GET's payload is counted and dropped by the kernel
    (`MSG_TRUNC`), so that on a machine of few cores the server is measured and not its client. `read` is a
    GET that really receives.
    """

    def __init__(self, address: Address, size_bytes: int, payload: bytes | memoryview = b"") -> None:
        self.socket = socket.create_connection(address, timeout=REPLY_DEADLINE_S)
        self.payload = memoryview(bytearray(size_bytes))
        self.file = os.fdopen(os.memfd_create("payload"), "w+b", buffering=0)
        self.file.write(payload)

    def close(self) -> None:
        self.socket.close()
        self.file.close()

    def header(self, command: int, key: bytes, length: int = 0) -> bytes:
        return REQUEST.pack(command, length, 1, 3, 0, 2, 1, length // 4, 1, key.ljust(150))

    def put(self, key: bytes) -> None:
        size_bytes = len(self.payload)
        self.socket.sendall(self.header(PUT, key, size_bytes))
        assert self.socket.sendfile(self.file, 0, size_bytes) == size_bytes

    def ask(self, command: int, key: bytes, flags: int = socket.MSG_TRUNC) -> int:
        """The reply's code."""
        self.socket.sendall(self.header(command, key))
        code: int
        code, length, *_ = REPLY.unpack(self._receive(memoryview(bytearray(REPLY.size))))
        self._receive(self.payload[:length], flags)
        return code

    def read(self, key: bytes) -> memoryview:
        """The value of a key that is there."""
        assert self.ask(GET, key, 0) == SUCCESS
        return self.payload

    def _receive(self, target: memoryview, flags: int = 0) -> memoryview:
        done = 0
        while done < len(target):
            count = self.socket.recv_into(target[done:], 0, flags)
            if count == 0:
                sys.exit("the server closed the connection in the middle of a reply; look at its log")
            done += count
        return target


def keys_of(connection: int, connections: int, size_bytes: int) -> list[bytes]:
    count = max(1, WORKING_SET_BYTES // size_bytes // connections)
    return [b"bench@1@%d@%x@bfloat16" % (connection, number) for number in range(count)]


def run_puts(client: Client, keys: Sequence[bytes], requests: int, payload: memoryview) -> None:  # noqa: ARG001
    """As `run_gets`; what is sent, the client has."""
    for number in range(requests):
        client.put(keys[number % len(keys)])
    assert client.ask(EXIST, keys[0]) == SUCCESS


def run_gets(client: Client, keys: Sequence[bytes], requests: int, payload: memoryview) -> None:
    for number in range(requests):
        assert client.ask(GET, keys[number % len(keys)]) == SUCCESS
    for key in keys[:2]:
        assert client.read(key) == payload, "a value read is not the one that was written"


Run = Callable[[Client, Sequence[bytes], int, memoryview], None]


def rate_mb_s(address: Address, run: Run, size_bytes: int, connections: int, requests: int) -> float:
    """Megabytes a second of ``requests`` PUTs or GETs on each of ``connections`` connections."""
    payload = memoryview(os.urandom(4096) * (size_bytes // 4096))
    clients = [Client(address, size_bytes, payload) for _ in range(connections)]
    keys = [keys_of(number, connections, size_bytes) for number in range(connections)]
    for client, own in zip(clients, keys, strict=True):
        run_puts(client, own, len(own), payload)
    begin = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(run, clients, keys, [requests] * connections, [payload] * connections))
    elapsed_s = time.perf_counter() - begin
    for client in clients:
        client.close()
    return connections * requests * size_bytes / elapsed_s / 1e6


def measured(
    address: Address, pid: int, run: Run, size_bytes: int, connections: int, requests: int
) -> tuple[float, float]:
    """Megabytes a second, and what they cost the server: CPU seconds a gigabyte, filling included."""
    before_s = cpu_s(pid)
    mb_s = rate_mb_s(address, run, size_bytes, connections, requests)
    filled = sum(len(keys_of(number, connections, size_bytes)) for number in range(connections))
    return mb_s, (cpu_s(pid) - before_s) / ((connections * requests + filled) * size_bytes / 1e9)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(command: list[str], stdout: int | IO[str], stderr: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """``command`` as a child process that is gone afterwards."""
    child = subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_healthy(address: Address, child: subprocess.Popen[str], name: str) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while child.poll() is None and time.monotonic() < deadline:
        try:
            client = Client(address, 0)
        except OSError:
            time.sleep(0.1)
            continue
        assert client.ask(HEALTH, b"bench@1@0@0@bfloat16") == SUCCESS
        client.close()
        return
    sys.exit(f"{name} did not answer on {address[0]}:{address[1]} within {START_DEADLINE_S} s")


@contextmanager
def lmcache_server(program: str, log: IO[str]) -> Iterator[Server]:
    address = ("127.0.0.1", free_port())
    with process([program, address[0], str(address[1])], log, log) as child:
        wait_until_healthy(address, child, "lmcache_server")
        yield address, child.pid


@contextmanager
def bare_loop(log: IO[str]) -> Iterator[Server]:
    command = [sys.executable, str(Path(__file__).with_name("bare_lm.py")), str(max(SIZES_BYTES))]
    with process(command, subprocess.PIPE, log) as child:
        assert child.stdout is not None
        yield ("127.0.0.1", int(child.stdout.readline())), child.pid


@contextmanager
def kvtide_node(program: str, log: IO[str]) -> Iterator[Server]:
    listen = [part for flag in ("--listen", "--lm", "--admin") for part in (flag, "127.0.0.1:0")]
    with process([program, "serve", *listen, "--dram", "1Gi"], subprocess.PIPE, log) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            sys.exit(f"{program} did not start: {Path(log.name).read_text()[-400:].strip()}")
        host, port = json.loads(line)["lm"].rsplit(":", 1)
        wait_until_healthy((host, int(port)), child, "kvtide-node")
        yield (host, int(port)), child.pid


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lmcache-server", default=shutil.which("lmcache_server"), metavar="PROGRAM")
    parser.add_argument("--node", default=str(Path(sys.executable).with_name("kvtide-node")))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="moved in one round of one cell")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.lmcache_server is None:
        parser.error("no lmcache_server on PATH: `pip install lmcache==0.5.6` somewhere and name it")
    return options


def cells(options: argparse.Namespace, servers: Sequence[Server]) -> Iterator[dict[str, Any]]:
    for size_bytes in SIZES_BYTES:
        for connections in options.connections:
            requests = max(1, options.megabytes * 1_000_000 // size_bytes // connections)
            for name, run in (("PUT", run_puts), ("GET", run_gets)):
                rounds = [
                    [measured(*server, run, size_bytes, connections, requests) for server in servers]
                    for _ in range(options.rounds)
                ]
                rates, costs = ([[pair[at] for pair in each] for each in rounds] for at in (0, 1))
                their_mb_s, our_mb_s, limit_mb_s = map(statistics.median, zip(*rates, strict=True))
                their_cpu, our_cpu, limit_cpu = map(statistics.median, zip(*costs, strict=True))
                yield {
                    "operation": name,
                    "size_bytes": size_bytes,
                    "connections": connections,
                    "lmcache_server_mb_s": round(their_mb_s),
                    "kvtide_mb_s": round(our_mb_s),
                    "limit_mb_s": round(limit_mb_s),
                    "ratio": round(statistics.median(ours / theirs for theirs, ours, _ in rates), 2),
                    "kvtide_to_limit": round(statistics.median(ours / limit for _, ours, limit in rates), 2),
                    "limit_ratio": round(statistics.median(limit / theirs for theirs, _, limit in rates), 2),
                    "lmcache_server_cpu_s_per_gb": round(their_cpu, 3),
                    "kvtide_cpu_s_per_gb": round(our_cpu, 3),
                    "limit_cpu_s_per_gb": round(limit_cpu, 3),
                }


def show(cell: dict[str, Any]) -> None:
    size = f"{cell['size_bytes'] >> 20} MiB"
    print(f"{cell['operation']:4} {size:>6} {cell['connections']:>5}", end=" ")
    print(f"{cell['lmcache_server_mb_s']:>15} {cell['kvtide_mb_s']:>8} {cell['limit_mb_s']:>8}", end=" ")
    print(f"{cell['ratio']:>10} {cell['kvtide_to_limit']:>10} {cell['limit_ratio']:>10}", end=" ")
    print(f"{cell['lmcache_server_cpu_s_per_gb']:>9} {cell['kvtide_cpu_s_per_gb']:>7}", end=" ")
    print(f"{cell['limit_cpu_s_per_gb']:>7}", flush=True)


def main() -> None:
    options = arguments()
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.NamedTemporaryFile("w")) for _ in range(3)]
        theirs = stack.enter_context(lmcache_server(options.lmcache_server, logs[0]))
        ours = stack.enter_context(kvtide_node(options.node, logs[1]))
        limit = stack.enter_context(bare_loop(logs[2]))
        if options.json:
            print(json.dumps(list(cells(options, (theirs, ours, limit))), indent=2))
            return
        print(
            f"{'MB/s':4} {'size':>6} {'conns':>5} {'lmcache_server':>15} {'kvtide':>8} {'limit':>8}", end=" "
        )
        print(
            f"{'kvt/lmc':>10} {'kvt/limit':>10} {'limit/lmc':>10} {'CPU s/GB:':>9} {'kvtide':>7} {'limit':>7}"
        )
        for cell in cells(options, (theirs, ours, limit)):
            show(cell)


if __name__ == "__main__":
    main()
