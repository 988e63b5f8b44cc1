"""`lm://` on a node: LMCache's habits, RESP beside it, bounds, and two tiers."""

import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import redis

from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.node import Node
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.serve import lm_connection
from kvtide_cachenode.serve.commands.forward import ServeHere
from kvtide_cachenode.serve.server import DataServer
from kvtide_cachenode.store import SsdLog, Store, TieredStore
from kvtide_cachenode.wire import lm

MI = 1 << 20
DESCRIPTION = (1, 3, 0, 2, 32, 8, 1024)  # fmt, dtype, location, shape


@contextmanager
def node(*options):
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", *options]
    for flag in ("--listen", "--lm", "--admin"):
        command += (flag, "127.0.0.1:0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield {
                k: v.rpartition(":")[2]
                for k, v in json.loads(process.stdout.readline()).items()
                if k != "pid"
            }
        finally:
            process.terminate()
            process.wait(120)


@pytest.fixture(scope="module")
def served():
    with node("--dram", "16Mi") as addresses:
        yield addresses


def header(command, key, length=0):
    return struct.pack("<9i150s", command, length, *DESCRIPTION, key.ljust(150))


class Client:
    def __init__(self, addresses):
        self.socket = socket.create_connection(("127.0.0.1", int(addresses["lm"])), timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def put(self, key, payload):
        self.socket.sendall(header(1, key, len(payload)))
        self.socket.sendall(payload)

    def ask(self, command, key):
        self.socket.sendall(header(command, key))
        reply = self.receive(36)
        code, length, *description = struct.unpack("<9i", reply)
        return code, description, self.receive(length)

    def receive(self, count):
        data = bytearray()
        while len(data) < count and (piece := self.socket.recv(count - len(data))):
            data += piece
        return bytes(data)


@pytest.mark.parametrize("size", [0, 1, 2000, 2048, 16_384, 100_003, 3_000_001])
def test_what_is_put_is_there_and_comes_back_with_its_description(served, size):
    key, payload = b"model@1@0@%d@bf16" % size, random.Random(size).randbytes(size)
    with Client(served) as client:
        assert client.ask(2, key)[0] == 400
        client.put(key, payload)
        assert client.ask(3, key)[0] == 200
        assert client.ask(2, key) == (200, [1, 3, 2, 32, 8, 1024, 0], payload)
    with redis.Redis(port=int(served["listen"])) as other:
        assert other.get(b"lm:" + key)[32:] == payload
        other.set("lm:not-ours", b"x" * 100)
        with Client(served) as client:
            assert client.ask(2, b"not-ours")[0] == 400
        assert other.delete(b"lm:" + key) == 1


def test_a_put_then_exist_is_not_delayed_by_nagle(served):
    with Client(served) as client:
        took_s = []
        for number in range(50):
            began_s = time.perf_counter()
            client.put(b"k%d" % number, b"x" * 500)
            assert client.ask(3, b"k%d" % number)[0] == 200
            took_s.append(time.perf_counter() - began_s)
        assert min(took_s) < 0.04  # an acknowledgement that is waited for comes after 40 ms, each time


def test_many_requests_at_once_are_answered_in_order(served):
    values = {b"p%d" % number: bytes([number]) * (number * 997) for number in range(40)}
    with Client(served) as client:
        client.socket.sendall(b"".join(header(1, key, len(v)) + v for key, v in values.items()))
        client.socket.sendall(b"".join(header(2, key) for key in values) + header(5, b"k"))
        for value in values.values():
            assert struct.unpack("<9i", client.receive(36))[:2] == (200, len(value))
            assert client.receive(len(value)) == value
        assert struct.unpack("<9i", client.receive(36))[0] == 200


def test_it_is_bounded_a_value_above_the_tier_is_dropped_and_the_old_one_with_it(served):
    with Client(served) as client:
        client.put(b"big", b"small")
        client.put(b"big", bytes(20 << 20))
        assert client.ask(3, b"big")[0] == 400
        for number in range(40):
            client.put(b"fill%d" % number, bytes(1 << 20))
        assert client.ask(3, b"fill39")[0] == 200
        assert client.ask(3, b"fill0")[0] == 400
    with redis.Redis(port=int(served["listen"])) as other:
        assert other.info("memory")["used_memory"] <= 16 << 20


def test_nonsense_ends_the_connection_and_nothing_else(served):
    for nonsense in (
        b"GET / HTTP/1.1\r\n\r\n".ljust(186),
        header(9, b"k"),
        header(1, b"k", -1),
        header(2, b""),
    ):
        with Client(served) as client:
            client.socket.sendall(nonsense)
            assert client.receive(1) == b""
    with Client(served) as client:
        client.socket.sendall(header(1, b"half", 1000) + b"x" * 10)
    with Client(served) as client:
        assert client.ask(3, b"half")[0] == 400


def test_values_that_went_to_the_ssd_come_back(tmp_path):
    options = ("--dram", "8Mi", "--ssd", "256Mi", "--ssd-path", str(tmp_path))
    values = {b"k%d" % number: random.Random(number).randbytes(number * 30_011) for number in range(60)}
    with node(*options) as addresses, Client(addresses) as client:
        missing = list(values)
        while missing:  # what a busy disk did not take in time is put once more; what it took stays
            for key in missing:
                client.put(key, values[key])
            found = {key: client.ask(2, key) for key in values}  # DRAM alone holds 10 to 20
            missing = [key for key, (code, *_) in found.items() if code != 200]
            assert all(found[key][2] == values[key] for key in values.keys() - set(missing))


async def test_a_value_whose_owner_names_this_node_is_stored_where_it_landed(monkeypatch):
    async def back(*_):
        raise ServeHere

    owner = Member("f" * 40, "127.0.0.1", 1, MI)
    asked = iter([(owner, 1)])
    monkeypatch.setattr(lm_connection, "ask", back)
    monkeypatch.setattr(lm_connection.LmConnection, "_elsewhere", lambda _self, _key: next(asked, None))
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    monkeypatch.setattr(node.store, "put", None)  # nothing is copied
    server = DataServer(node, lm_connection.LmConnection, full=b"")
    _, port = server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = random.Random(1).randbytes(100_000)
    writer.write(header(1, b"k", len(payload)) + payload + header(3, b"k"))
    assert await reader.readexactly(len(lm.YES)) == lm.YES
    writer.close()
    await server.stop()
    (key,) = [key for page in node.store.pages() for key in page]
    assert node.store.value(node.store.peek(key))[lm.METADATA_BYTES :] == payload
    node.store.check()
    assert node.failures.total == {}


async def test_a_value_on_the_ssd_is_found_where_its_owner_names_this_node(monkeypatch, tmp_path):
    async def back(*_):
        raise ServeHere

    owner = Member("f" * 40, "127.0.0.1", 1, MI)
    asked = iter([None, (owner, 1)])
    monkeypatch.setattr(lm_connection, "ask", back)
    monkeypatch.setattr(lm_connection.LmConnection, "_elsewhere", lambda _self, _key: next(asked))
    store = TieredStore(4 * MI, 64 * MI, make_policy("lru"), await SsdLog.open(tmp_path, 256 * MI, time.time))
    node = Node(store, block_tokens=16)
    server = DataServer(node, lm_connection.LmConnection, full=b"")
    _, port = server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = random.Random(1).randbytes(100_000)
    writer.write(header(1, b"k", len(payload)) + payload)
    while not len(store):
        await asyncio.sleep(0.001)
    (key,) = [key for page in store.pages() for key in page]
    for number in range(100):
        store.put(b"%d" % number, bytes(200_000))
        while store._writing:
            await asyncio.sleep(0.001)
    assert store.below(key)
    writer.write(header(2, b"k"))
    assert await reader.readexactly(len(lm.NO)) != lm.NO
    assert await reader.readexactly(len(payload)) == payload
    writer.close()
    await server.stop()
    await store.close(0)
    assert node.failures.total == {}
