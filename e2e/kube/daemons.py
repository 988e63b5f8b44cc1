"""Processes that outlive the command that started them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from e2e.cache import MissingError
from e2e.kube.places import BIN, DAEMONS, LOG

STOP_S: Final = 15.0
POLL_S: Final = 0.1

# Started by this very process, which must take note of their end.
_children: dict[str, subprocess.Popen[bytes]] = {}


def start(name: str, *arguments: str, inside: str | None = None) -> None:
    """Start a binary unless it runs; ``inside`` names a network namespace. Its command line is remembered."""
    if pid(name) is not None:
        return
    DAEMONS.mkdir(parents=True, exist_ok=True)
    LOG.mkdir(parents=True, exist_ok=True)
    enter = [] if inside is None else ["nsenter", f"--net=/run/netns/{inside}"]
    command = [*enter, str(BIN / name), *arguments]
    with (LOG / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )
    _children[name] = process
    _record(name).write_text(json.dumps({"pid": process.pid, "arguments": arguments, "inside": inside}))
    wait_for(f"{name} to start", lambda: pid(name) is not None or process.poll() is not None, 5.0)


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """End a process, by force when it takes longer than `STOP_S`."""
    running = pid(name)
    if running is None:
        return
    os.kill(running, number)
    deadline = time.monotonic() + STOP_S
    while pid(name) is not None:
        if time.monotonic() > deadline:
            os.kill(running, signal.SIGKILL)
        time.sleep(POLL_S)
    if child := _children.pop(name, None):
        child.wait()


def start_again(name: str) -> None:
    """Start an ended process with the command line it had."""
    record = json.loads(_record(name).read_text())
    start(name, *record["arguments"], inside=record["inside"])


def pid(name: str) -> int | None:
    """The process that was started under this name, None when it does not run."""
    try:
        number = int(json.loads(_record(name).read_text())["pid"])
        is_ours = Path(f"/proc/{number}/exe").readlink() == BIN / name
    except (OSError, ValueError, KeyError):
        return None
    return number if is_ours else None


def wait_for(what: str, holds: Callable[[], bool], timeout_s: float, daemon: str | None = None) -> None:
    """Wait until something holds.

    Raises:
        MissingError: it does not in time, or ``daemon`` has ended; the message has the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        ended = daemon is not None and pid(daemon) is None
        if ended or time.monotonic() > deadline:
            why = f"{daemon} has ended" if ended else f"not within {timeout_s:.0f} s"
            tail = "" if daemon is None else _tail(LOG / f"{daemon}.log")
            raise MissingError(f"waited in vain for {what}: {why}\n{tail}")
        time.sleep(POLL_S)


def _record(name: str) -> Path:
    return DAEMONS / f"{name}.json"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-8:])
