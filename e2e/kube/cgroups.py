"""The control groups under which all pods are, apart from those of any other Kubernetes on the machine."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from e2e.kube.places import CGROUP

ROOT: Final = f"/{CGROUP}"
_MOUNT: Final = Path("/sys/fs/cgroup")
END_S: Final = 10.0


def make() -> None:
    """Make the group in every hierarchy (version 1) or in the one there is (version 2)."""
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty until they are set
            if (group / name).exists() and not (group / name).read_text().strip():
                (group / name).write_text((hierarchy / name).read_text())


def remove() -> None:
    """End every process in the group, and remove it."""
    deadline = time.monotonic() + END_S
    while (running := list(_processes())) and time.monotonic() < deadline:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _processes() -> Iterator[int]:
    for hierarchy in _hierarchies():
        for file in (hierarchy / CGROUP).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from map(int, file.read_text().split())


def _hierarchies() -> list[Path]:
    if (_MOUNT / "cgroup.controllers").exists():
        return [_MOUNT]
    return [path for path in _MOUNT.iterdir() if path.is_dir() and not path.is_symlink()]
