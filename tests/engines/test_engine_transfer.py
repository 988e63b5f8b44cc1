"""Transfers against real nodes, and against servers that do everything wrong."""

import os
import random
import shutil
import signal
import ssl
import subprocess
import time

import msgspec
import pytest
import redis

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.trace_line import EngineLine
from kvtide_cachenode.engines import node_set as node_set_module
from kvtide_cachenode.engines.block_keys import all_ranks, names
from kvtide_cachenode.engines.loading import LoadJob
from kvtide_cachenode.engines.lookup import Lookups
from kvtide_cachenode.engines.node_connection import Credentials
from kvtide_cachenode.engines.options import read_options
from kvtide_cachenode.engines.tally import Tally
from kvtide_cachenode.engines.trace_reporter import TraceReporter

PAYLOAD_BYTES = 100_000
KEYS = [b"kvt:m:l:0-1x1:root:%d:hash" % depth for depth in range(12)]
PAYLOADS = [random.Random(seed).randbytes(PAYLOAD_BYTES) for seed in range(12)]


def wait_until(true, what, patience_s=60.0):
    deadline_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def load(engine, keys, timeout_s=10.0):
    """Load ``keys`` into blocks 0, 1, 2 …; the job when it is over, and how long that took."""
    began_s = time.monotonic()
    job = LoadJob("request", [(key, at) for at, key in enumerate(keys)], began_s + timeout_s)
    engine.loader.start(job)
    ended = []
    wait_until(lambda: ended.extend(engine.loader.ended()) or ended, "a load is never over", timeout_s + 5)
    assert ended == [job]
    return job, time.monotonic() - began_s


def store_all(engine):
    for key, payload in zip(KEYS, PAYLOADS, strict=True):
        wait_until(lambda: engine.store(key, payload, 0.5), "no slot becomes free")  # noqa: B023 - called at once
    wait_until(lambda: engine.count("store_blocks") == len(KEYS), "not all is stored")


def all_are_right(engine, missing=frozenset()):
    assert engine.blocks == {at: PAYLOADS[at] for at in range(len(KEYS)) if at not in missing}


def test_what_is_stored_is_loaded_with_its_lineage(start_node, node_set, engine):
    nodes = node_set(start_node().address)
    engine = engine(nodes)
    store_all(engine)
    job, _ = load(engine, [*KEYS, b"kvt:never:stored"])
    all_are_right(engine)
    assert job.missing == {len(KEYS)}
    assert set(job.lowest_quality.values()) == {0.5}
    assert nodes.is_up(nodes.owner(KEYS[0]))


def test_ranks_keep_their_own_parts_and_a_block_is_there_when_all_have_theirs(start_node, node_set, engine):
    nodes = node_set(start_node().address)
    ranks = all_ranks(2, 1)
    chain = names(b"kvt:m:l", [bytes([depth]) * 32 for depth in range(4)], 0, 0, 4)
    workers = [engine(nodes) for _ in ranks]
    parts = [PAYLOADS[:4], PAYLOADS[4:8]]
    for worker, rank, mine, stored in zip(workers, ranks, parts, (4, 2), strict=True):
        for name, payload in zip(chain[:stored], mine, strict=False):
            assert worker.store(name.key(rank), payload)
        wait_until(lambda: worker.count("store_blocks") == stored, "not all is stored")  # noqa: B023 - called at once
    lookups = Lookups(nodes, ranks)
    assert lookups.start(chain, 20.0).result().blocks == 2  # the second rank's part of the third is missing
    lookups.close()
    for worker, rank, mine in zip(workers, ranks, parts, strict=True):
        load(worker, [name.key(rank) for name in chain[:2]])
        assert worker.blocks == {0: mine[0], 1: mine[1]}


def test_who_has_nothing_else_to_do_waits_for_the_end_of_a_load(start_node, node_set, engine, serve):
    nodes = node_set(start_node().address)
    engine_of_node = engine(nodes)
    store_all(engine_of_node)
    began_s = time.monotonic()
    assert engine_of_node.loader.ended(30.0) == []  # nothing is under way
    job = LoadJob("request", [(key, at) for at, key in enumerate(KEYS)], began_s + 60.0)
    engine_of_node.loader.start(job)
    ended = []
    for _ in KEYS:  # it wakes for each part of the load at most
        ended = ended or engine_of_node.loader.ended(30.0)
    assert ended == [job]
    all_are_right(engine_of_node)
    # With no node to ask a load is over at once.
    silent = node_set(("127.0.0.1", 1))
    target = engine(silent)
    load(target, KEYS[:1], timeout_s=5.0)
    target.loader.start(LoadJob("another", [(KEYS[0], 0)], time.monotonic() + 60.0))
    assert target.loader.ended(30.0)
    assert time.monotonic() - began_s < 30.0


def test_a_value_that_stops_in_the_middle_ends_at_the_deadline(serve, node_set, engine):
    def stop_halfway(peer):
        while asked := peer.recv(65536):
            if b"SLOTS" in asked:
                peer.sendall(b"-ERR no cluster\r\n")
            else:
                peer.sendall(b"$%d\r\n" % (PAYLOAD_BYTES + 32) + bytes(PAYLOAD_BYTES // 2))

    target = engine(node_set(serve(stop_halfway)))
    job, took_s = load(target, KEYS[:1], timeout_s=0.5)
    assert job.missing == {0}
    assert took_s >= 0.5
    wait_until(lambda: target.count("node_errors") == 1, "the thread never gives up")


def test_three_nodes_share_the_slots(start_node, node_set, engine, adopt):
    processes = [start_node() for _ in range(3)]
    members = []
    for process in processes:
        with redis.Redis(port=process.address[1]) as client:
            identity = client.execute_command("CLUSTER", "MYID").decode()
        members.append(Member(identity, *process.address, 64 << 20))
    adopt(processes, first_topology(members))
    # One of them is enough to find all.
    nodes = node_set(processes[1].address)
    engine = engine(nodes)
    store_all(engine)
    load(engine, KEYS)
    all_are_right(engine)
    chain = names(b"kvt:m:l", [bytes([depth]) * 32 for depth in range(40)], 0, 0, 40)
    for name in chain[:33]:
        engine.store(name.key(b"0-1x1"), PAYLOADS[0])
        wait_until(lambda: engine.storer._free.qsize(), "no slot becomes free")
    wait_until(lambda: engine.count("store_blocks") == len(KEYS) + 33, "not all is stored")
    entries = []
    for process in processes:
        with redis.Redis(port=process.address[1]) as client:
            entries.append(client.dbsize())
    assert sum(entries) == len(KEYS) + 33
    assert all(entries)
    lookups = Lookups(nodes, [b"0-1x1"])
    assert lookups.start(chain, 5.0).result(10).blocks == 33
    # Where one rank has its part and another has not, nobody can use the block.
    ranked = Lookups(nodes, [b"0-1x1", b"1-2x1"])
    assert ranked.start(chain, 5.0).result(10).blocks == 0
    ranked.close()
    lookups.close()


@pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
def test_a_redirect_is_followed_once(word, start_node, node_set, engine, serve):
    node = start_node()
    owner = engine(node_set(node.address))
    store_all(owner)

    def send_away(peer):
        while asked := peer.recv(65536):
            commands = asked.count(b"GET") + asked.count(b"EXISTS") + asked.count(b"SLOTS")
            peer.sendall(b"-%b 1 127.0.0.1:%d\r\n" % (word, node.address[1]) * commands)

    lost = engine(node_set(serve(send_away)))
    load(lost, KEYS)
    all_are_right(lost)


def test_a_node_killed_while_loading_costs_the_rest_and_no_more(start_node, node_set, engine, serve):
    node = start_node()
    nodes = node_set(node.address)
    engine = engine(nodes)
    store_all(engine)
    scatter, placed = engine.loader._scatter, []

    def scatter_and_kill(slot, block_id):
        scatter(slot, block_id)
        placed.append(block_id)
        if len(placed) == 2:
            node.process.kill()
            node.process.wait(120)

    engine.loader._scatter = scatter_and_kill
    job, took_s = load(engine, KEYS * 20, timeout_s=30.0)
    assert took_s < 30.0
    assert job.missing
    assert all(payload == PAYLOADS[at % len(KEYS)] for at, payload in engine.blocks.items())
    assert set(engine.blocks) == set(range(len(KEYS) * 20)) - job.missing
    assert not nodes.is_up(node.address)
    assert not engine.store(KEYS[0], PAYLOADS[0])
    assert engine.count("store_dropped_node_down") == 1


def test_a_silent_node_costs_the_deadline(node_set, engine, serve, monkeypatch):
    monkeypatch.setattr(node_set_module, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(node_set_module, "MAX_PAUSE_S", 60.0)

    def be_silent(peer):
        while peer.recv(65536):
            pass

    nodes = node_set(serve(be_silent))
    job, took_s = load(engine(nodes), KEYS, timeout_s=0.5)
    assert job.missing == set(range(len(KEYS)))
    assert took_s >= 0.5
    wait_until(lambda: not nodes.is_up(nodes.owner(KEYS[0])), "its silence is not noticed")
    # While it is left alone it is not waited for.
    again, took_s = load(engine(nodes), KEYS, timeout_s=30.0)
    assert again.missing == job.missing
    assert took_s < 15.0


def test_bytes_that_come_late_reach_no_block(start_node, node_set, engine, serve):
    node = start_node()
    source = engine(node_set(node.address))
    store_all(source)
    with redis.Redis(port=node.address[1]) as client:
        value = client.get(KEYS[0])
    sent = []

    def dawdle(peer):
        while asked := peer.recv(65536):
            if b"SLOTS" in asked:
                peer.sendall(b"-ERR no cluster\r\n")
                continue
            peer.sendall(b"$%d\r\n" % len(value) + value[:5000])
            time.sleep(0.6)
            peer.sendall(value[5000:] + b"\r\n")
            sent.append(True)

    engine = engine(node_set(serve(dawdle)))
    job, _ = load(engine, KEYS[:1], timeout_s=0.3)
    assert job.missing == {0}
    wait_until(lambda: sent or not job.batches, "the server never goes on")
    wait_until(lambda: not job.batches, "the thread never goes on")
    assert not engine.blocks


@pytest.mark.parametrize("damage", ["bytes", "length", "empty", "another block"])
def test_a_wrong_value_is_never_used(damage, start_node, node_set, engine):
    node = start_node()
    engine = engine(node_set(node.address))
    store_all(engine)
    with redis.Redis(port=node.address[1]) as client:
        value = client.get(KEYS[3])
        wrong = {
            "bytes": value[:70_000] + bytes([value[70_000] ^ 4]) + value[70_001:],
            "length": value[:-1],
            "empty": b"",
            "another block": client.get(KEYS[4]),
        }
        client.set(KEYS[3], wrong[damage])
    job, _ = load(engine, KEYS)
    assert job.missing == {3}
    all_are_right(engine, {3})
    assert engine.count("load_damaged_blocks") == 1


def test_a_value_larger_than_a_block_breaks_the_connection_only(start_node, node_set, engine):
    node = start_node()
    nodes = node_set(node.address)
    engine = engine(nodes)
    store_all(engine)
    with redis.Redis(port=node.address[1]) as client:
        client.set(KEYS[0], bytes(PAYLOAD_BYTES * 2))
    job, _ = load(engine, KEYS)
    assert 0 in job.missing
    wait_until(lambda: nodes.is_up(node.address), "the node is left alone for ever")
    engine.blocks.clear()
    load(engine, [b"kvt:none", *KEYS[1:]])
    all_are_right(engine, {0})


def test_noise_instead_of_replies_ends_a_load_in_time(node_set, engine, serve):
    noise = random.Random(11)

    def babble(peer):
        while peer.recv(65536):
            start = noise.choice([b"", b"$", b"*", b":", b"$100032\r\n", b"*3\r\n*9\r\n", b"$-1\r\n", b"+"])
            peer.sendall(start + noise.randbytes(noise.choice([3, 200_000])))
            if noise.random() < 0.3:
                return

    for _ in range(4):
        target = engine(node_set(serve(babble)))
        job, took_s = load(target, KEYS, timeout_s=0.4)
        assert took_s < 15.0
        assert not target.blocks
        assert len(job.missing) == len(KEYS)


def test_a_full_buffer_drops_and_counts(start_node, node_set, engine):
    node = start_node()
    engine = engine(node_set(node.address), slots=3)
    os.kill(node.process.pid, signal.SIGSTOP)
    taken = [engine.store(key, payload) for key, payload in zip(KEYS, PAYLOADS, strict=True)]
    os.kill(node.process.pid, signal.SIGCONT)
    assert taken == [True] * 3 + [False] * 9
    assert engine.count("store_dropped_buffer_full") == 9
    wait_until(lambda: engine.count("store_blocks") == 3, "not all is stored")
    job, _ = load(engine, KEYS)
    assert job.missing == set(range(3, 12))
    all_are_right(engine, job.missing)


def test_a_node_that_comes_back_is_used_again(start_node, node_set, engine):
    node = start_node()
    nodes = node_set(node.address)
    engine = engine(nodes)
    store_all(engine)
    node.kill()
    job, _ = load(engine, KEYS, timeout_s=2.0)
    assert len(job.missing) == len(KEYS)
    start_node(port=node.address[1])
    wait_until(lambda: nodes.is_up(node.address), "the node is left alone for ever")
    engine.tally.take()
    engine.counted.clear()
    store_all(engine)
    load(engine, KEYS)
    all_are_right(engine)


def test_a_connection_that_its_node_has_closed_meanwhile_costs_nothing(start_node, node_set, engine):
    node = start_node()
    nodes = node_set(node.address)
    engine = engine(nodes)
    store_all(engine)
    load(engine, KEYS)
    with redis.Redis(port=node.address[1]) as client:
        values = client.mget(KEYS)
    node.kill()
    again = start_node(port=node.address[1])
    with redis.Redis(port=again.address[1]) as client:
        client.mset(dict(zip(KEYS, values, strict=True)))
    engine.blocks.clear()
    job, _ = load(engine, KEYS)
    assert not job.missing
    all_are_right(engine)
    assert engine.count("node_errors") == 0


def test_a_password_opens_and_a_wrong_one_does_not(start_node, node_set, engine, tmp_path):
    (tmp_path / "password").write_text("open sesame")
    node = start_node("--password-file", str(tmp_path / "password"))
    right = engine(node_set(node.address, credentials=Credentials(None, "open sesame")))
    store_all(right)
    load(right, KEYS)
    all_are_right(right)
    wrong = engine(node_set(node.address, credentials=Credentials("default", "please")))
    job, _ = load(wrong, KEYS)
    assert len(job.missing) == len(KEYS)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_with_the_right_authority_and_without(start_node, node_set, engine, tmp_path):
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=node"
    words += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    node = start_node("--tls-cert", certificate, "--tls-key", key)
    options = read_options({"nodes": "127.0.0.1:1", "tls_ca_file": certificate}, "extra")
    trusting = engine(node_set(node.address, credentials=options.credentials()))
    store_all(trusting)
    load(trusting, KEYS)
    all_are_right(trusting)
    for credentials in (Credentials(), Credentials(tls=ssl.create_default_context())):
        job, _ = load(engine(node_set(node.address, credentials=credentials)), KEYS, timeout_s=2.0)
        assert len(job.missing) == len(KEYS)


async def test_each_request_is_one_line_of_the_trace(start_node, node_set):
    node = start_node()
    tally = Tally()
    reporter = TraceReporter(node_set(node.address), tally)
    for number in range(3):
        reporter.report(EngineLine(1000 + number, 300, 5, [1, 2, number + 3], 2, 1))
    # What cannot be is refused by the node and counted here.
    odd = EngineLine(1003, 300, 5, [1, 2, 3], 2, 1)
    msgspec.structs.force_setattr(odd, "local_hit_blocks", 3)
    reporter.report(odd)
    reporter.close()
    counted = tally.take()
    assert (counted["trace_lines"], counted["trace_refused_lines"]) == (3, 1)
    async with NodeClient(f"http://{node.admin}") as client:
        page = await client.trace(None)
    assert page.lines.count(b'"observed_at":"engine"') == 3
    assert b'"hash_ids":[1,2,5]' in page.lines
    assert page.lines.count(b'"hit_blocks":2,"local_hit_blocks":1') == 3
