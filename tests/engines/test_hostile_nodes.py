"""Nodes that mix up, damage, withhold and invent: an engine never takes a wrong byte, and goes on."""

import random
import socket
import time

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvtide_cachenode.access_trace.ring import EngineLine
from kvtide_cachenode.engines import node_set as node_set_module
from kvtide_cachenode.engines.block_keys import BlockName, names
from kvtide_cachenode.engines.container import (
    HEADER_BYTES,
    MAGIC,
    ContainerError,
    Qualities,
    header,
    read,
)
from kvtide_cachenode.engines.loading import LoadJob
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.node_connection import (
    MAX_LINE_BYTES,
    RECEIVE_BYTES,
    Credentials,
    NodeConnection,
    NodeError,
)
from kvtide_cachenode.engines.node_set import redirected_to
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.trace_reporter import TraceReporter
from kvtide_cachenode.wire.resp_client import Refused, ReplyReader, encode

PAYLOAD_BYTES = 100_000
CHAIN = names(b"kvt:m:l", [bytes([depth]) * 32 for depth in range(12)], 0, 0, 12)
KEYS = [name.key(b"0-1x1") for name in CHAIN]
PAYLOADS = [bytes([depth]) * PAYLOAD_BYTES for depth in range(12)]


def value_of(key, payload):
    return header(key, memoryview(payload), Qualities()) + payload


VALUES = [value_of(key, payload) for key, payload in zip(KEYS, PAYLOADS, strict=True)]


def load(engine, keys, timeout_s=5.0):
    job = LoadJob("request", [(key, at) for at, key in enumerate(keys)], time.monotonic() + timeout_s)
    engine.loader.start(job)
    engine.loader.wait(job)
    return job


def bulk(value):
    return b"$%d\r\n%b\r\n" % (len(value), value)


def answering(answer):
    """A server that knows no cluster, and gives to the n-th GET what ``answer`` says."""

    def behave(peer):
        buffer, asked = b"", 0
        while piece := peer.recv(1 << 16):
            buffer += piece
            while (end := command_end(buffer)) is not None:
                command, buffer = buffer[:end], buffer[end:]
                if b"SLOTS" in command:
                    peer.sendall(b"-ERR no cluster\r\n")
                else:
                    peer.sendall(answer(asked))
                    asked += 1

    return behave


def command_end(buffer):
    if b"\r\n" not in buffer:
        return None
    count, at = int(buffer[1 : buffer.index(b"\r\n")]), buffer.index(b"\r\n") + 2
    for _ in range(count):
        if b"\r\n" not in buffer[at:]:
            return None
        line = buffer.index(b"\r\n", at)
        at = line + 2 + int(buffer[at + 1 : line]) + 2
    return at if at <= len(buffer) else None


@pytest.mark.parametrize("shift", [1, 5, 11])
def test_replies_in_another_order_are_never_used(serve, node_set, engine, shift):
    """Each value is whole, of the same model and right for some other block that was asked for."""
    target = engine(node_set(serve(answering(lambda at: bulk(VALUES[(at + shift) % 12])))))
    # One connection asks in the order of the keys.
    target.loader._thread_count = 1
    job = LoadJob("r", [(key, at) for at, key in enumerate(KEYS[:8])], time.monotonic() + 20.0)
    target.loader.start(job)
    target.loader.wait(job)
    assert target.blocks == {}
    assert job.missing == set(range(8))
    assert target.count("load_damaged_blocks") == 8


OTHERS = {
    "another block": KEYS[4],
    "another model": KEYS[3].replace(b":m:", b":n:"),
    "another layout": KEYS[3].replace(b":l:", b":k:"),
    "another rank": KEYS[3].replace(b"0-1x1", b"1-2x1"),
    "another depth": KEYS[3].replace(b":3:", b":13:"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_whole_value_of_anything_else_is_not_used(serve, node_set, engine, other):
    target = engine(node_set(serve(answering(lambda _: bulk(value_of(OTHERS[other], PAYLOADS[3]))))))
    assert load(target, KEYS[3:4]).missing == {0}
    assert target.blocks == {}
    assert target.count("load_damaged_blocks") == 1


@given(st.integers(0, 2**32 - 1), st.integers(0, 11), st.integers(0, 11))
def test_a_value_is_bound_to_its_key(seed, mine, its):
    payload = random.Random(seed).randbytes(64)
    value = memoryview(value_of(KEYS[its], payload))
    if mine == its:
        assert read(KEYS[mine], value, 64) == Qualities()
    else:
        with pytest.raises(ContainerError, match="checksum"):
            read(KEYS[mine], value, 64)


def damage(value, kind):
    return {
        "cut": value[:-1],
        "cut to its header": value[:HEADER_BYTES],
        "longer": value + b"\0",
        "of zeros": bytes(len(value)),
        "of another version": b"KVT9" + value[len(MAGIC) :],
        "of another codec": value[:4] + b"\x07\0" + value[6:],
        "of another length": value[:8] + (1).to_bytes(8, "little") + value[16:],
        "without checksum": value[:28] + bytes(4) + value[32:],
        "empty": b"",
    }[kind]


KINDS = ["cut", "cut to its header", "longer", "of zeros", "of another version", "of another codec"]
KINDS += ["of another length", "without checksum", "empty"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_values_are_never_used(serve, node_set, engine, kind):
    target = engine(node_set(serve(answering(lambda at: bulk(damage(VALUES[at % 12], kind))))))
    assert load(target, KEYS[:1]).missing == {0}
    assert target.blocks == {}
    assert target.count("load_damaged_blocks") + target.count("node_errors") == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    b"$-1\r\n",
                    b"$5\r\nabcde\r\n",
                    b":1\r\n",
                    b"*2\r\n",
                    b"*-1\r\n",
                    b"$99999999999\r\n",
                    b"+OK\r\n",
                    b"-MOVED 1 host:99999999\r\n",
                    b"-ASK 1 " + b"h" * 300 + b":1\r\n",
                    b":" + b"9" * 5000 + b"\r\n",
                    b"*65536\r\n*65536\r\n",
                    b"$1_0\r\n",
                    b"\r\n",
                ]
            ),
        ),
        max_size=6,
    )
)
def test_any_reply_is_read_or_ends_the_connection(parts):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"".join(parts))
        theirs.shutdown(socket.SHUT_WR)
        connection = NodeConnection.__new__(NodeConnection)
        connection._socket, connection._replies = ours, ReplyReader(RECEIVE_BYTES, MAX_LINE_BYTES)
        memory = memoryview(bytearray(64))
        try:
            for turn in range(8):
                if turn % 2:
                    length = connection.read_value(memory, time.monotonic() + 5)
                    assert length is None or isinstance(length, Refused) or 0 <= length <= 64
                else:
                    connection.read(time.monotonic() + 5)
        except NodeError:
            pass


def test_an_array_of_arrays_is_bounded_in_all(serve, monkeypatch):
    def multiply(peer):
        peer.recv(1 << 16)
        while True:
            peer.sendall(b"*60000\r\n" + b":1\r\n" * 59_999)

    address = serve(multiply)
    connection = NodeConnection(address, Credentials(), time.monotonic() + 5)
    try:
        with pytest.raises(NodeError, match="array of 60000 elements"):
            connection.ask(encode(b"CLUSTER", b"SLOTS"), time.monotonic() + 30)
    finally:
        connection.close()


BAD_ADDRESSES = ["host:99999999", "host:0", "h:-1", "h:\u0661", ":6379", "host:", "host"]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_a_redirect_to_nowhere_is_no_redirect(address):
    assert redirected_to(Refused(f"MOVED 1 {address}")) is None


# Names that can be no host's: looking them up raises what is no OSError.
NO_HOSTS = ["a" * 70, "a..b", "\ufffd" * 64]


@pytest.mark.parametrize("host", NO_HOSTS)
@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_redirect_to_no_host_costs_its_blocks(host, word, serve, node_set, engine, caplog):
    reply = f"-{word} 1 {host}:1\r\n".encode()
    nodes = node_set(serve(answering(lambda _: reply)))
    target = engine(nodes)
    assert load(target, KEYS[:2]).missing == {0, 1}
    lookups = Lookups(nodes, [b"0-1x1"])
    found = lookups.start(CHAIN, 5.0).result(10)
    assert (found.blocks, found.end) == (0, "node_down")
    lookups.close()
    assert target.count("accidents") == 0
    assert "broke off" not in caplog.text


@pytest.mark.parametrize("port", [0, 70_000, 2**40])
def test_a_map_of_places_that_cannot_be_is_not_taken(port, serve, node_set):
    def lie(peer):
        while peer.recv(1 << 16):
            peer.sendall(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$4\r\nhost\r\n:%d\r\n" % port)

    address = serve(lie)
    assert node_set(address).owner(KEYS[0]) == address


def test_nodes_that_send_to_each_other_end_a_load(serve, node_set, engine):
    ports = []

    def to_the_other(mine):
        return answering(lambda _: b"-MOVED 1 127.0.0.1:%d\r\n" % ports[1 - mine])

    addresses = [serve(to_the_other(mine)) for mine in range(2)]
    ports += [address[1] for address in addresses]
    nodes = node_set(addresses[0])
    target = engine(nodes)
    job = load(target, KEYS, timeout_s=30.0)
    assert job.missing == set(range(12))
    assert time.monotonic() - job.started_s < 15.0
    assert target.store(KEYS[0], PAYLOADS[0])
    deadline_s = time.monotonic() + 60
    while not target.count("store_refused"):
        assert time.monotonic() < deadline_s
    lookups = Lookups(nodes, [b"0-1x1"])
    assert lookups.start(CHAIN, 5.0).result(10).blocks == 0
    lookups.close()


def test_a_node_that_names_ever_new_nodes_leaves_few_connections(
    start_node, serve, node_set, engine, monkeypatch
):
    monkeypatch.setattr(node_set_module, "MAX_KEPT", 3)
    monkeypatch.setattr(node_set_module, "MAX_REMEMBERED", 5)
    node = start_node()
    with redis.Redis(port=node.address[1]) as client:
        client.mset(dict(zip(KEYS, VALUES, strict=True)))
    # The whole of 127.0.0.0/8 is here.
    nodes = node_set(serve(answering(lambda at: b"-MOVED 1 127.0.0.%d:%d\r\n" % (at + 2, node.address[1]))))
    target = engine(nodes)
    target.loader._thread_count = 1
    load(target, KEYS[:8], timeout_s=10.0)
    assert len(nodes._health) <= 5
    assert len(nodes._open) <= 2 * 3  # two threads


def test_who_says_nothing_is_a_time_out_and_who_is_gone_is_down(serve, node_set, monkeypatch):
    def be_silent(peer):
        while peer.recv(1 << 16):
            pass

    monkeypatch.setattr(node_set_module, "MAP_TIMEOUT_S", 0.1)
    nodes = node_set(serve(be_silent))
    lookups = Lookups(nodes, [b"0-1x1"])
    found = lookups.start(CHAIN, 0.3).result(10)
    assert (found.blocks, found.end) == (0, "timeout")
    assert found.took_s >= 0.3
    # It is left alone now, and nobody waits for it.
    assert lookups.start(CHAIN, 30.0).result(10).end == "node_down"
    lookups.close()


def test_a_look_up_says_why_it_ends(start_node, node_set):
    node = start_node()
    with redis.Redis(port=node.address[1]) as client:
        client.mset(dict(zip(KEYS[:5], VALUES[:5], strict=True)))
    lookups = Lookups(node_set(node.address), [b"0-1x1"])
    assert [lookups.start(CHAIN[:count], 10.0).result(15).blocks for count in (3, 5, 12)] == [3, 5, 5]
    assert lookups.start(CHAIN, 10.0).result(15).end == "complete"
    lookups.close()


def test_an_accident_in_a_look_up_is_a_miss_and_a_line_in_the_log(start_node, node_set, caplog):
    lookups = Lookups(node_set(start_node().address), [b"0-1x1"])
    broken = BlockName(b"kvt", None)
    assert lookups.start([broken], 5.0).result(10).blocks == 0
    assert "a look-up broke off" in caplog.text
    lookups.close()


def test_an_accident_of_the_reporter_costs_one_line(start_node, node_set, caplog):
    tally = Tally()
    reporter = TraceReporter(node_set(start_node().address), tally)
    reporter.report(object())
    reporter.report(EngineLine(1000, 300, 5, [1, 2, 3], 2, 1))
    reporter.close()
    counted = tally.take()
    assert (counted["trace_dropped_lines"], counted["trace_lines"]) == (1, 1)
    assert "a line of the access trace is lost" in caplog.text


def test_a_block_that_cannot_be_copied_costs_no_slot(start_node, node_set, engine):
    target = engine(node_set(start_node().address), slots=3)

    def fail(slot):
        raise MemoryError

    for _ in range(10):
        with pytest.raises(MemoryError):
            target.storer.offer(KEYS[0], 1.0, fail)
    made = target.storer._make_slot
    target.storer._make_slot = fail_to_make
    target.storer._free.get_nowait()
    with pytest.raises(MemoryError):
        target.storer.offer(KEYS[0], 1.0, fail)
    target.storer._make_slot = made
    assert target.storer._unmade == 2  # and one was taken above


def fail_to_make():
    raise MemoryError


def test_a_block_that_is_no_longer_right_when_it_has_been_computed_is_not_stored(
    start_node, node_set, engine
):
    node = start_node()
    target = engine(node_set(node.address), slots=2)
    for _ in range(5):
        while not target.storer.offer(KEYS[0], 1.0, lambda _: None, lambda: False):
            pass
    deadline_s = time.monotonic() + 60
    while target.count("store_dropped_adapter_changed") < 5:
        assert time.monotonic() < deadline_s
    with redis.Redis(port=node.address[1]) as client:
        assert client.dbsize() == 0


def test_what_breaks_off_otherwise_is_counted_and_its_slot_is_free_again(
    start_node, node_set, engine, caplog
):
    target = engine(node_set(start_node().address), slots=1)

    def break_off():
        raise RuntimeError("an accident")

    assert target.storer.offer(KEYS[0], 1.0, lambda _: None, break_off)
    deadline_s = time.monotonic() + 60
    while target.count("accidents") < 1:
        assert time.monotonic() < deadline_s
    assert target.storer._free.qsize() == 1
    assert "a transfer broke off" in caplog.text
