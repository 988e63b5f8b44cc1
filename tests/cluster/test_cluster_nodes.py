"""Real clients against a cluster of real nodes: at rest, while slots move, drained, and with a node lost."""

import asyncio
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import ExitStack

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kvtide_cachenode.cluster.handover import plan_handover
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.contract.client import NodeClient

SIZES = (0, 7, 3_000, 40_000, 700_000)


def value_of(key, version=0):
    seed = random.Random(f"{key}:{version}")
    return seed.randbytes(SIZES[seed.randrange(len(SIZES))])


def plain(member, protocol=2):
    return redis.Redis(port=member.port, protocol=protocol, socket_timeout=20, retry=Retry(NoBackoff(), 0))


def cluster_client(member):
    return redis.RedisCluster(host="127.0.0.1", port=member.port, protocol=3)


class LmClient:
    """LMCache's `lm://` client: header, then payload; one reply header of 36 bytes."""

    def __init__(self, member):
        self.socket = socket.create_connection(("127.0.0.1", member.lm_port), timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def put(self, key, payload):
        self.socket.sendall(struct.pack("<9i150s", 1, len(payload), 1, 3, 0, 2, 1, 7, 1, key.ljust(150)))
        self.socket.sendall(payload)

    def ask(self, command, key):
        self.socket.sendall(struct.pack("<9i150s", command, 0, 1, 2, 0, 0, 0, 0, 0, key.ljust(150)))
        code, length, *description = struct.unpack("<9i", self._receive(36))
        return code, description, self._receive(length)

    def _receive(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, "the node closed the connection"
            data += piece
        return bytes(data)


def test_a_client_that_knows_no_cluster_uses_all_nodes_through_one(cluster):
    values = {f"key:{number}": value_of(number) for number in range(60)}
    with plain(cluster[0]) as client:
        client.mset(dict(list(values.items())[:30]))
        for key, value in list(values.items())[30:]:
            client.set(key, value)
    assert sum(member.entries for member in cluster) == 60
    assert all(member.entries for member in cluster)
    for member, protocol in zip(cluster, (2, 3, 3), strict=True):
        with plain(member, protocol) as client:
            assert client.mget(["none", *values, "nothing"]) == [None, *values.values(), None]
            assert client.exists(*values, "none") == 60
            pipeline = client.pipeline(transaction=False)
            for key in values:
                pipeline.get(key).strlen(key).exists(key).ping()
            expected = [[value, len(value), 1, True] for value in values.values()]
            assert pipeline.execute() == [reply for replies in expected for reply in replies]
    with plain(cluster[1]) as client:
        assert client.set("key:1", b"new", nx=True) is None
        assert client.set("key:1", b"new", get=True) == values["key:1"]
        assert client.getdel("key:1") == b"new"
        assert client.delete(*values) == 59
    assert [member.entries for member in cluster] == [0, 0, 0]


def test_commands_of_a_cluster_client_run_where_they_arrive(cluster):
    with cluster_client(cluster[0]) as client:
        for number in range(60):
            client.set(f"key:{number}", value_of(number))
        assert [client.get(f"key:{number}") for number in range(60)] == [value_of(n) for n in range(60)]
        assert client.cluster_keyslot("key:1") == key_slot(b"key:1")
        counted = client.cluster_countkeysinslot(key_slot(b"key:1"))
        assert counted == 1
    assert cluster.forwarded() == 0


def test_lm_clients_find_each_others_values_through_any_node(cluster):
    with ExitStack() as stack:
        clients = [stack.enter_context(LmClient(member)) for member in cluster]
        exchange(clients)
    with plain(cluster[0]) as client:
        assert client.get(b"lm:model@1@0@3@bf16")[32:] == value_of(3)


def exchange(clients):
    values = {b"model@1@0@%d@bf16" % number: value_of(number) for number in range(30)}
    for number, (key, value) in enumerate(values.items()):
        clients[number % 3].put(key, value)
        assert clients[number % 3].ask(3, key)[0] == 200
    for client in clients:
        for key, value in values.items():
            assert client.ask(3, key)[0] == 200
            assert client.ask(2, key) == (200, [1, 3, 2, 1, 7, 1, 0], value)
        assert client.ask(2, b"none")[0] == 400
        assert client.ask(5, b"")[0] == 200


def read_and_write(client, keys, stop, failures):
    """Read all keys again and again, overwriting some; every byte is checked."""
    versions = dict.fromkeys(keys, 0)
    chance = random.Random(keys[0])
    try:
        while not stop.is_set():
            for key in keys:
                found = client.get(key)
                assert found == value_of(key, versions[key]), (key, found if found is None else len(found))
            for key in chance.sample(keys, 3):
                versions[key] += 1
                client.set(key, value_of(key, versions[key]))
            removed = chance.choice(keys)
            client.delete(removed)
            assert client.get(removed) is None, f"{removed} is back"
            client.set(removed, value_of(removed, versions[removed]))
    except (AssertionError, OSError, redis.RedisError) as error:
        failures.append(error)


class LmAsRedis:
    """`LmClient` with the names that `read_and_write` uses; the protocol has no delete."""

    def __init__(self, member):
        self.client, self.gone = LmClient(member), None

    def set(self, key, value):
        self.gone = None
        self.client.put(key.encode(), value)

    def delete(self, key):
        self.gone = key

    def close(self):
        self.client.socket.close()

    def get(self, key):
        if key == self.gone:
            return None
        code, _, value = self.client.ask(2, key.encode())
        return value if code == 200 else None


def test_every_client_finds_every_key_while_slots_move_back_and_forth(cluster):
    makers = [plain, lambda m: plain(m, 3), cluster_client, LmAsRedis]
    clients = [make(cluster[number % 3]) for number, make in enumerate(makers)]
    stop, failures, threads = threading.Event(), [], []
    for number, client in enumerate(clients):
        keys = [f"client{number}:{at}" for at in range(15)]
        for key in keys:
            client.set(key, value_of(key))
        threads.append(threading.Thread(target=read_and_write, args=(client, keys, stop, failures)))
    for thread in threads:
        thread.start()
    nodes = [member.node for member in cluster]
    topology = first_topology(nodes)
    try:
        for shares in ((0, 3, 1), (2, 0, 1), (1, 1, 1)):
            sized = [Node(n.id, n.host, n.port, n.dram_bytes * s) for n, s in zip(nodes, shares, strict=True)]
            handover = plan_handover(topology, rebalanced(topology, sized))
            cluster.hand_over(handover)
            topology = handover.moved
            assert not failures, failures
            for member in (member for member, share in zip(cluster, shares, strict=True) if not share):
                assert member.entries == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        for client in clients:
            client.close()
    assert not failures, failures
    moved = [member.status()["cluster"] for member in cluster]
    assert sum(state["moved_entries"] for state in moved) > 60
    assert sum(state["left_entries"] for state in moved) == 0


def test_redis_cli_follows_and_a_plain_redis_cli_need_not(cluster):
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed")
    keys = [f"key:{number}" for number in range(12)]
    with plain(cluster[0]) as client:
        client.mset({key: key for key in keys})
    for options in (["-c"], []):
        commands = ("CLUSTER NODES\n" if options else "") + "".join(f"GET {key}\n" for key in keys)
        run = subprocess.run(
            [program, *options, "-p", str(cluster[2].port)],
            input=commands,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert run.stdout.splitlines()[-len(keys) :] == keys


def test_a_stale_cluster_client_learns_the_new_owners(cluster):
    before = first_topology([member.node for member in cluster])
    with cluster_client(cluster[0]) as client:
        for number in range(300):  # enough for the nodes to tell that it routes by the map
            client.set(f"key:{number}", number)
        nodes = [cluster[1].node, cluster[2].node, cluster[0].node]
        cluster.hand_over(plan_handover(before, first_topology(nodes)))
        cluster.all_agree()
        for number in range(300):
            assert client.get(f"key:{number}") == b"%d" % number
        settled = cluster.forwarded()
        for number in range(300):
            assert client.get(f"key:{number}") == b"%d" % number
        assert cluster.forwarded() == settled


def test_a_drained_node_hands_everything_over_and_says_so(cluster):
    values = {f"key:{number}": value_of(number) for number in range(90)}
    with plain(cluster[0]) as client:
        client.mset(values)
    held = cluster[1].entries
    status, reply = cluster[1].ask("POST", "/v1/drain", {"deadline_s": 20})
    assert (status, reply["complete"], reply["left_entries"]) == (200, True, 0)
    assert reply["moved_entries"] == held > 0
    assert cluster[1].entries == 0
    assert cluster[1].ask("GET", "/readyz")[0] == 503
    for member in cluster:
        with plain(member) as client:
            assert client.mget(list(values)) == list(values.values())
    again = asyncio.run(drained_again(f"http://{cluster[1].admin}"))
    assert (again.complete, again.moved_entries, again.left_entries) == (True, 0, 0)
    cluster[1].process.terminate()
    cluster[1].process.wait(120)
    with plain(cluster[2]) as client:
        assert client.mget(list(values)) == list(values.values())


async def drained_again(url):
    async with NodeClient(url) as client:
        assert not await client.ready()
        return await client.drain(deadline_s=5)


def test_what_two_nodes_cannot_hold_stays_behind_and_is_counted(cluster):
    with plain(cluster[0]) as client:
        for number in range(400):
            client.set(f"key:{number}", os.urandom(700_000))
        hot = [f"key:{number}" for number in range(380, 400)]
        assert client.exists(*hot) == 20
        _, reply = cluster[2].ask("POST", "/v1/drain", {})
        assert reply["complete"]
        assert reply["moved_entries"] > 10
        assert reply["left_entries"] > 10
        assert client.exists(*hot) == 20


@pytest.mark.parametrize(
    "cluster",
    [("--dram", "8Mi", "--ssd", "256Mi", "--ssd-path", "FOLDER/NUMBER")],
    indirect=True,
    ids=["two tiers"],
)
def test_what_lies_on_the_ssd_moves_too(cluster):
    values = {f"key:{number}": random.Random(number).randbytes(200_000) for number in range(200)}
    with plain(cluster[0]) as client:
        for key, value in values.items():
            client.set(key, value)
        stored = {key for key, value in zip(values, client.mget(list(values)), strict=True) if value}
        assert cluster[2].status()["tiers"]["ssd"]["entries"] > 20
        _, reply = cluster[2].ask("POST", "/v1/drain", {"deadline_s": 30})
        assert (reply["complete"], reply["left_entries"]) == (True, 0)
        assert client.execute_command("DBSIZE") > 0
        found = client.mget(list(values))
    assert all(value in (None, wanted) for value, wanted in zip(found, values.values(), strict=True))
    lost = {key for key, value in zip(values, found, strict=True) if value is None}
    assert len(lost & stored) <= len(values) // 20  # what a slow disk could not take in time is evicted
    with plain(cluster[2]) as client:
        assert client.dbsize() == 0


def test_entries_that_are_not_sent_in_time_are_dropped_and_the_node_is_empty(cluster):
    with plain(cluster[0]) as client:
        client.mset({f"key:{number}": "x" for number in range(90)})
    _, reply = cluster[0].ask("POST", "/v1/drain", {"deadline_s": 0})
    assert reply["left_entries"] > 0
    assert cluster[0].entries == 0
    assert reply["complete"]


def test_a_lost_owner_is_misses_and_errors_and_nobody_else_suffers(cluster):
    values = {f"key:{number}": value_of(number) for number in range(60)}
    with plain(cluster[0]) as client:
        client.mset(values)
        cluster[1].process.kill()
        cluster[1].process.wait()
        topology = first_topology([member.node for member in cluster])
        lost = {key for key in values if topology.owner(key_slot(key.encode())) == cluster[1].node}
        assert client.mget(list(values)) == [None if key in lost else value for key, value in values.items()]
        assert client.exists(*values) == 60 - len(lost)
        key = min(lost)
        assert client.get(key) is None
        with pytest.raises(redis.ResponseError, match=r"CLUSTERDOWN|does not answer"):
            client.set(key, b"new")
        assert client.ping()
    with LmClient(cluster[0]) as lm:
        lm.put(key.encode(), b"payload")
        assert lm.ask(5, b"")[0] == 200


def test_a_drain_with_a_lost_peer_is_refused_and_the_node_goes_on(cluster):
    cluster[1].process.kill()
    cluster[1].process.wait()
    status, reply = cluster[0].ask("POST", "/v1/drain", {"deadline_s": 1})
    assert status == 409
    assert f"{cluster[1].port} does not answer" in reply["error"]
    serves_what_it_owns(cluster)


def serves_what_it_owns(cluster):
    assert cluster[0].status()["ready"]
    topology = first_topology([member.node for member in cluster])
    own = [key for key in map("own:{}".format, range(100)) if owner_of(topology, key) == cluster[0].node]
    with plain(cluster[0]) as client:
        for key in own:
            assert client.set(key, "value") is True
            assert client.get(key) == b"value"


def owner_of(topology, key):
    return topology.owner(key_slot(key.encode()))


def test_a_node_in_no_cluster_cannot_be_drained_and_says_why(cluster):
    other = cluster[0]
    assert other.ask("POST", "/v1/drain", {"deadline_s": -1})[0] == 400
    older = first_topology([member.node for member in cluster])
    status, reply = other.ask("PUT", "/v1/desired", {"term": 9, "generation": 1, "topology": older})
    assert status == 202 or status == 200, reply  # the same topology again changes nothing
    wrong = {"epoch": 7, "nodes": [], "slots": []}
    status, reply = other.ask("PUT", "/v1/desired", {"term": 9, "generation": 2, "topology": wrong})
    assert status == 400
    assert "0 nodes" in reply["error"]
