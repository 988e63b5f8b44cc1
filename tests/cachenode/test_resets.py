"""Clients that end without a word: whatever had arrived, nothing of them stays."""

import json
import socket
import struct
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from kvtide_cachenode.serve.server import STALL_S

HALF = b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$2000000\r\n" + bytes(1_000_000)
NO_COMMAND = b"\r\n" * 8


def reset(port: int, said: bytes) -> None:
    """Say something and be gone before it is read."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(said)


def used_bytes(node: Any) -> int:
    with urllib.request.urlopen(node.admin_url + "/v1/status", timeout=10) as reply:
        return int(json.load(reply)["tiers"]["dram"]["used_bytes"])


def connections(node: Any) -> int:
    with urllib.request.urlopen(node.admin_url + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("kvtide_node_connections ")).split()[1]))


@pytest.mark.parametrize("said", [HALF, NO_COMMAND], ids=["half a value", "no command"])
def test_a_reset_behind_unread_bytes_ends_the_connection(start_node: Callable[..., Any], said: bytes) -> None:
    """The event loop tells of a reset once; what had arrived may be read then in its place."""
    node = start_node("--dram", "64Mi")
    for _ in range(20):
        reset(node.port, said)
    deadline_s = time.monotonic() + STALL_S / 2  # well before stalled clients are cut off
    while connections(node) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert connections(node) == 0
    assert used_bytes(node) == 0
