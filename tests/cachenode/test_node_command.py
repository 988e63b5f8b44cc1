"""The command line: one sentence for what cannot be, a clean end, a small process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from kvtide_cachenode.process.memory_limit import largest_capacity_bytes, memory_limit_bytes

MI = 1024 * 1024
GI = 1024 * MI
SERVE = [sys.executable, "-m", "kvtide_cachenode", "serve"]


def refused(*options: str, **environment: str) -> str:
    done = subprocess.run(
        [*SERVE, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | environment,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_cannot_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--listen 127.0.0.1:{port} cannot be bound" in refused("--listen", f"127.0.0.1:{port}")
        assert f"--admin 127.0.0.1:{port} cannot be bound" in refused("--admin", f"127.0.0.1:{port}")
    assert "'4 cows' is not a quantity" in refused("--dram", "4 cows")
    assert "above the" in refused("--dram", "9000Ti")
    assert "not a quantity" in refused(KVTIDE_NODE_DRAM="lots")
    assert "nobody cannot be read" in refused("--password-file", str(tmp_path / "nobody"))
    assert "is not HOST:PORT" in refused("--listen", "6379")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert "is empty" in refused("--admin-token-file", str(empty))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(start_node: Callable[..., Any], number: signal.Signals) -> None:
    started = start_node("--dram", "64Mi")
    with redis.Redis(port=started.port) as client:
        client.set("k", bytes(MI))
        started.process.send_signal(number)
        assert started.process.wait(120) == 0


def test_an_empty_node_is_small_and_imports_nothing_heavy(start_node: Callable[..., Any]) -> None:
    status = Path(f"/proc/{start_node('--dram', '64Mi').process.pid}/status").read_text()
    resident_ki = int(status.split("VmRSS:")[1].split()[0])
    assert resident_ki < 60 * 1024
    loaded = subprocess.run(
        [sys.executable, "-c", "import kvtide_cachenode.cli, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "numba", "torch", "pydantic", "rich"} & set(loaded)


def test_metadata_of_many_small_entries_is_charged(start_node: Callable[..., Any]) -> None:
    """The process grows by no more than it says it uses (key, value and metadata of 100,000 entries)."""
    started = start_node("--dram", "256Mi")
    statm = Path(f"/proc/{started.process.pid}/statm")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * 4096

    with redis.Redis(port=started.port) as client:
        client.set("warm", "up")
        before = resident()
        for begin in range(0, 100_000, 10_000):
            pipeline = client.pipeline(transaction=False)
            for number in range(begin, begin + 10_000):
                pipeline.set(f"metadata-object-{number:032d}", b"x" * 28)
            pipeline.execute()
        used = int(client.info("memory")["used_memory"])
        # The trace ring and what is remembered of parents grow too; they have bounds of their own.
        assert resident() - before <= used + 24 * MI


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/pod/box\n", {"pod/memory.max": "1000", "pod/box/memory.max": "max"}, 1000),
        ("0::/\n", {"memory.max": "2000"}, 2000),
        ("5:cpu:/\n4:memory:/kube\n0::/\n", {"memory/kube/memory.limit_in_bytes": "3000"}, 3000),
        ("4:memory:/host/path\n", {"memory/memory.limit_in_bytes": "4000"}, 4000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 8000 * 1024),
    ],
)
def test_the_cgroup_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], limit: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       8000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert memory_limit_bytes(tmp_path) == limit
    assert largest_capacity_bytes(tmp_path) == 0  # the process itself would not fit
