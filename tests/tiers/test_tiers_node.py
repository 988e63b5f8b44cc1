"""Two tiers through real clients: order of replies, both tiers in every command, restarts, documents."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from kvtide_cachenode.contract.client import NodeClient, NodeRefused
from kvtide_cachenode.contract.messages import CapacityRequest, Desired, IdleTimeouts, Version

if TYPE_CHECKING:
    import redis

    from .conftest import Process

MI = 1024 * 1024
Connect = Callable[[int], "redis.Redis[bytes]"]
ENTRIES = 120


def value_of(key: int) -> bytes:
    return random.Random(key).randbytes(2048) * 64  # 128 KiB


def fill(client: "redis.Redis[bytes]", **others: bytes) -> None:
    """Set more than DRAM holds, until all is there: what a busy SSD did not take in time once more."""
    values = others | {f"k{key}": value_of(key) for key in range(ENTRIES)}
    while missing := [key for key in values if not client.exists(key)]:
        for key in missing:
            client.set(key, values[key])


def lost(admin_url: str) -> int:
    """Entries that left DRAM while the SSD was too busy to take them."""
    with urllib.request.urlopen(f"{admin_url}/v1/status") as reply:
        counters = json.load(reply)["counters"]
    return int(counters["demotions_dropped"]) + int(counters["demotions_refused"])


def options(path: Path, dram: str = "4Mi", ssd: str = "256Mi") -> tuple[str, ...]:
    return "--dram", dram, "--ssd", ssd, "--ssd-path", str(path)


def found_of(client: "redis.Redis[bytes]", entries: int = ENTRIES) -> int:
    found = 0
    for key in range(entries):
        value = client.get(f"k{key}")
        assert value is None or value == value_of(key)
        found += value is not None
    return found


def test_every_command_sees_both_tiers(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    node = start_node(*options(tmp_path))
    client = connect(node.port)
    fill(client)
    there = [key for key in range(ENTRIES) if client.exists(f"k{key}")]
    assert len(there) > 40
    assert client.dbsize() == len(there)
    assert {key.decode() for key in client.scan_iter(count=7)} == {f"k{key}" for key in there}
    oldest = there[0]
    assert client.strlen(f"k{oldest}") == len(value_of(oldest))
    assert client.set(f"k{oldest}", "x", nx=True) is None
    assert client.setnx(f"k{there[1]}", "x") is False
    assert client.set(f"k{oldest}", "new", get=True) == value_of(oldest)
    assert client.get(f"k{oldest}") == b"new"
    assert client.getdel(f"k{there[2]}") == value_of(there[2])
    assert client.delete(f"k{there[2]}", f"k{there[3]}") == 1
    assert client.exists(f"k{there[3]}") == 0
    before = lost(node.admin_url)
    mget = client.mget([f"k{key}" for key in range(ENTRIES)])
    for key, value in enumerate(mget):
        assert value in (None, value_of(key)) or key == oldest
    kept = sum(value is not None for value in mget)
    assert kept >= len(there) - 2 - (lost(node.admin_url) - before)
    client.flushall()
    assert client.dbsize() == 0
    assert client.get(f"k{there[5]}") is None


def test_pipelined_replies_come_in_order(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    """Reads of both tiers, writes and errors in one pipeline; the large one is streamed past DRAM."""
    node = start_node(*options(tmp_path))
    client = connect(node.port)
    large = random.Random(0).randbytes(2 * MI)
    wanted: list[object] = []
    commands: list[tuple[bytes | str, ...]] = []
    for key in range(0, ENTRIES, 3):
        commands += [("GET", f"k{key}"), ("GET", f"absent{key}"), ("ECHO", f"after {key}")]
        wanted += [value_of(key), None, f"after {key}".encode()]
        if key % 30 == 0:
            commands += [("GET", "large"), ("SET", f"small{key}", b"s")]
            wanted += [large, True]
    while True:
        fill(client, large=large)
        before = lost(node.admin_url)
        pipe = client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies = pipe.execute()
        if replies == wanted:
            return
        # What the reads themselves pushed out of DRAM, and a busy SSD did not take, is a miss: once more.
        assert lost(node.admin_url) > before
        assert all(reply in (None, right) for reply, right in zip(replies, wanted, strict=True))


def test_a_client_that_leaves_in_the_middle_of_a_stream(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    node = start_node(*options(tmp_path))
    client = connect(node.port)
    large = random.Random(0).randbytes(3 * MI)
    fill(client, large=large)
    for _ in range(8):  # more than there are streams at once
        with socket.create_connection(("127.0.0.1", node.port)) as sock:
            sock.sendall(b"GET large\r\n")
            assert sock.recv(100_000).startswith(b"$3145728\r\n")
    assert client.get("large") == large


def test_what_was_acknowledged_survives_a_kill(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    """Overwritten and deleted values never come back; what is there has its last value."""
    node = start_node(*options(tmp_path))
    client = connect(node.port)
    fill(client)
    for key in range(0, ENTRIES, 2):
        client.set(f"k{key}", b"new %d" % key)
    for key in range(1, ENTRIES, 4):
        client.delete(f"k{key}")
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    client = connect(start_node(*options(tmp_path)).port)
    kept = 0
    for key in range(ENTRIES):
        value = client.get(f"k{key}")
        if key % 2 == 0:
            assert value in (None, b"new %d" % key)
        elif key % 4 == 1:
            assert value is None
        else:
            assert value in (None, value_of(key))
            kept += value is not None
    assert kept > 5


def test_sigterm_keeps_dram_too(start_node: Callable[..., Any], connect: Connect, tmp_path: Path) -> None:
    node = start_node(*options(tmp_path, dram="32Mi"))
    fill(connect(node.port))
    node.process.terminate()
    assert node.process.wait(120) == 0
    assert found_of(connect(start_node(*options(tmp_path)).port)) == ENTRIES


async def test_capacity_of_both_tiers(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    node = start_node(*options(tmp_path, dram="8Mi"))
    client = connect(node.port)
    await asyncio.to_thread(fill, client)
    async with NodeClient(node.admin_url) as admin:
        status = await admin.set_capacity(dram_bytes=2 * MI, ssd_bytes=8 * MI)
        assert status.resize is None
        assert (status.tiers["dram"].capacity_bytes, status.tiers["ssd"].capacity_bytes) == (2 * MI, 8 * MI)
        assert status.tiers["dram"].resident_bytes <= 2 * MI
        assert status.tiers["ssd"].used_bytes <= 8 * MI
        held = sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir() if file.suffix == ".segment")
        assert held <= 8 * MI
        with pytest.raises(NodeRefused, match="above the") as refused:
            await admin.set_capacity(ssd_bytes=1 << 60)
        assert refused.value.status == 409
        assert await asyncio.to_thread(found_of, client) > 10
        await admin.set_capacity(ssd_bytes=64 * MI)
        await asyncio.to_thread(fill, client)
        assert (await admin.status()).tiers["ssd"].used_bytes > 8 * MI


async def test_desired_is_kept_fenced_and_taken_up_again(
    start_node: Callable[..., Any], connect: Connect, tmp_path: Path
) -> None:
    node = start_node(*options(tmp_path, dram="16Mi"))
    document = Desired(
        term=2,
        generation=5,
        capacity=CapacityRequest("3Mi", 32 * MI),
        ttl_s=IdleTimeouts({"abc": 0.0}, 3600.0),
    )
    async with NodeClient(node.admin_url) as admin:
        status = await admin.set_desired(document)
        assert (status.desired, status.applied) == (Version(2, 5), Version(2, 5))
        assert await admin.set_desired(document)  # the same again
        for term, generation in ((2, 4), (1, 9)):
            with pytest.raises(NodeRefused, match="term 2, generation 5") as refused:
                await admin.set_desired(Desired(term=term, generation=generation))
            assert refused.value.status == 409
        with pytest.raises(NodeRefused, match="another content"):
            await admin.set_desired(Desired(term=2, generation=5))
        with pytest.raises(NodeRefused, match="above the"):
            await admin.set_desired(Desired(term=3, generation=0, capacity=CapacityRequest("900Ti")))
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    node = start_node(*options(tmp_path, dram="16Mi"))
    async with NodeClient(node.admin_url) as admin:
        status = await admin.status()
        assert (status.desired, status.applied) == (Version(2, 5), Version(2, 5))
        assert status.tiers["dram"].capacity_bytes == 3 * MI
        assert status.tiers["ssd"].capacity_bytes == 32 * MI
        client = connect(node.port)

        # Those of abc, whose time-out is 0, are refused; one whose room is needed at once is not even tried.
        while (await admin.status()).counters["demotions_refused"] <= 10:
            for root in ("abc", "def"):
                for key in range(ENTRIES):
                    client.set(f"kvt:m:l:0:{root}:1:{key}", value_of(key))
        assert client.exists(*(f"kvt:m:l:0:abc:1:{key}" for key in range(90))) == 0
        client.set("kvt:m:l:0:def:1:0", value_of(0))
        assert client.exists("kvt:m:l:0:def:1:0")


async def test_bad_documents_are_refused_in_a_sentence(start_node: Callable[..., Any]) -> None:
    node = start_node("--dram", "16Mi")
    cases = (
        ("{}", 400, "term"),
        ('{"term": 1, "generation": 1, "colour": 3}', 400, "colour"),
        ('{"term": 1, "generation": 1, "capacity": {"ssd": 5}}', 400, "no SSD tier"),
        ('{"term": 1, "generation": 1, "ttl_s": {"other": 5}}', 400, "--ssd"),
        ('{"term": 1, "generation": 1, "ttl_s": {"other": -5}}', 400, ">= 0"),
        ('{"term": -1, "generation": 1}', 400, ">= 0"),
    )
    async with aiohttp.ClientSession() as http:
        for body, status, sentence in cases:
            async with http.put(node.admin_url + "/v1/desired", data=body) as reply:
                assert reply.status == status, body
                assert sentence in json.loads(await reply.read())["error"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--ssd", "1Gi"), "--ssd-path DIR go together"),
        (("--ssd", "1Gi", "--ssd-path", "/proc/nothing"), "/proc/nothing"),
        (("--state-dir", "{file}"), "{file}"),
    ],
)
def test_unusable_directories_are_said_at_start(
    tmp_path: Path, given: tuple[str, ...], sentence: str
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--dram", "8Mi", *(part.format(file=file) for part in given)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, sentence.format(file=file) in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_state_is_said_at_start(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"node_id": 5}')
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--dram", "8Mi", "--state-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "mend it or remove it" in ended.stderr


def test_an_iteration_over_two_tiers_misses_nothing_while_others_write(
    start_node: Callable[..., "Process"], connect: Callable[[int], "redis.Redis[bytes]"], tmp_path: Path
) -> None:
    node = start_node("--dram", "4Mi", "--ssd", "256Mi", "--ssd-path", str(tmp_path))
    reading, writing = connect(node.port), connect(node.port)
    stay = {b"stay-%d" % number for number in range(2000)}
    for key in sorted(stay):
        writing.set(key, bytes(1000))
    held = set(reading.scan_iter(count=100))
    seen = set()
    for at, key in enumerate(reading.scan_iter(count=20)):
        seen.add(key)
        if at % 10 == 0:
            writing.set(b"more-%d" % at, bytes(100))
            writing.get(b"stay-%d" % (at % 2000))  # comes up from the SSD
        if at % 100 == 0:
            reading.scan(0)  # cursors that nobody goes on with
    still = set(reading.scan_iter(count=1000))
    assert held & still <= seen
    assert reading.dbsize() == len(still)
