"""Ports for servers that must be told one: none that the system gives to anybody else meanwhile."""

import itertools
import os
import socket

# Below those that the system gives to whoever asks for none (from 32,768 on); each worker has its own part.
FIRST, LAST, EACH = 12_000, 32_000, 2_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_start = FIRST + _worker * EACH + os.getpid() % EACH
_ports = itertools.chain(range(_start, LAST), range(FIRST, _start))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
