"""A node in a process of its own, as a bench sees it: its ports, its memory, its log, its admin API."""

import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MI: Final = 1 << 20
START_S: Final = 60.0
SAMPLE_S: Final = 0.02
# Counters of defects: what a handler, a task or a callback raised.
_DEFECT_METRIC: Final = re.compile(
    r"^(kvtide_node_\w*(?:defect|internal|exception|crash)\w*)(?:\{.*\})? (\S+)$"
)
_DEFECT_LINE: Final = re.compile(
    r"^(Traceback \(most recent call last\)|.*(AssertionError|RecursionError|MemoryError))"
)


@dataclass
class NodeProcess:
    """Where the node is served and what it is. ``pids`` are its processes: several with ``--shards``."""

    port: int
    admin: str
    process: "subprocess.Popen[str]"
    log: Path
    ports: list[int]
    token: str | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float = 60.0,
        raw: bytes | None = None,
    ) -> tuple[int, bytes]:
        """One request to the admin API: status and body. 0: no answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.admin}{path}", method=method, data=data)
        if self.token is not None:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def status(self) -> dict[str, Any]:
        code, body = self.ask("GET", "/v1/status")
        assert code == 200, f"/v1/status answers {code}: {body[:200]!r}"
        said: dict[str, Any] = json.loads(body)
        return said

    def defects(self) -> list[str]:
        """What the log and the metrics tell of exceptions that nothing expected."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [line[:200] for line in lines if _DEFECT_LINE.match(line)]
        _, body = self.ask("GET", "/metrics")
        for line in body.decode(errors="replace").splitlines():
            counted = _DEFECT_METRIC.match(line)
            if counted is not None and float(counted[2]) > 0:
                found.append(line)
        return found


@contextmanager
def node_process(
    *options: str, token: str | None = None, program: Sequence[str] = ("kvtide_cachenode",)
) -> Iterator[NodeProcess]:
    """Start a node on free ports; its log is kept beside until it ends, and it ends with the bench."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # noqa: ARG005 - Python's signature
    command = [sys.executable, "-m", *program, "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", *options]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log.fileno(),
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise OSError(f"the node does not start: {Path(log.name).read_text()[-500:]}")
            said = json.loads(line)
            ports = [_port(said["listen"])]
            if "shards" in said:
                ports = [_port(shard["listen"]) for shard in said["shards"]]
            yield NodeProcess(ports[0], said["admin"], process, Path(log.name), ports, token)
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def memory_bytes(pids: list[int]) -> dict[str, int]:
    """VmRSS and RssShmem of processes, added up; of one that has ended nothing."""
    total = {"VmRSS": 0, "RssShmem": 0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) * 1024
    return total


class Sampler(threading.Thread):
    """Reads the memory of processes until it is told to stop; ``peak`` is the largest of each figure."""

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(daemon=True)
        self._pids = node.pids
        self._stop_asked = threading.Event()
        self.processes = len(self._pids)
        self.first = memory_bytes(self._pids)
        self.last = self.first
        self.peak = dict(self.first)

    def run(self) -> None:
        while not self._stop_asked.wait(SAMPLE_S):
            self.last = memory_bytes(self._pids)
            self.peak = {name: max(self.peak[name], value) for name, value in self.last.items()}

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def raise_file_limit() -> int:
    """Let this process have as many open files as it may; how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def table(head: list[str], rows: list[list[object]]) -> str:
    """Rows under their head, the first column to the left and numbers to the right."""
    shown = [
        head,
        *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(line[at]) for line in shown) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in shown
    )


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
