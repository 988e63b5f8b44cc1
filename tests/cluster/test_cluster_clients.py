"""Real clients (RedisCluster, plain redis-py, redis-cli) against small nodes that act on `decide`."""

import shutil
import socket
import socketserver
import subprocess
import threading

import hiredis
import pytest
import redis
from redis._parsers.helpers import parse_cluster_nodes
from redis.cluster import parse_cluster_shards

from kvtide_cachenode.cluster import replies
from kvtide_cachenode.cluster.handover import MoveEntries, Send, plan_handover
from kvtide_cachenode.cluster.redirect import (
    LAST_HOP,
    Ask,
    Caller,
    Forward,
    Kind,
    Moved,
    Scatter,
    Serve,
    View,
    decide,
)
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node, SlotRange, Topology
from kvtide_cachenode.wire.replies import encode

# name, arity, flags, first key, last key, step, ACL categories, tips, key specifications, sub-commands
COMMANDS = [
    [name, arity, ["readonly"], 1, last, 1, [], [], [], []]
    for name, arity, last in [("get", 2, 1), ("set", -3, 1), ("mget", -2, -1), ("exists", -2, -1)]
]


class Member(socketserver.ThreadingTCPServer):
    """One node: a dictionary, a view, and the decisions of `redirect` acted on over real sockets."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Connection)
        self.node = Node(f"{self.server_address[1]:040x}", *self.server_address, dram_bytes=1 << 30)
        self.entries, self.view, self.forwarded, self.refused = {}, None, 0, []
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def adopt(self, topology):
        self.view = View(topology, self.node.id, self.view.heard if self.view else {})
        for key in [key for key in self.entries if not self.view.holds(key_slot(key))]:
            del self.entries[key]

    def hear(self, epochs):
        self.view = View(self.view.topology, self.node.id, epochs)

    def local(self, name, arguments):
        match name:
            case b"GET":
                return encode(self.entries.get(arguments[0]), False)
            case b"SET":
                self.entries[arguments[0]] = arguments[1]
                return b"+OK\r\n"
            case b"EXISTS":
                return encode(arguments[0] in self.entries, False)
        raise AssertionError(name)

    def forward(self, target, words, epoch):
        """Ask ``target`` as a peer; where it names another node, that one, once."""
        self.forwarded += 1
        with socket.create_connection((target.host, target.port), timeout=10) as peer:
            peer.sendall(encode([b"KVTIDE.PEER", b"%d" % epoch], False) + encode(words, False))
            reader, reply = hiredis.Reader(), []
            while len(reply) < 2:
                reader.feed(peer.recv(65536))
                while (one := reader.gets()) is not False:
                    reply.append(one)
        answer = reply[1]
        if isinstance(answer, hiredis.ReplyError):
            assert epoch != LAST_HOP
            port = int(str(answer).rsplit(":", 1)[1])
            if port == self.node.port:
                return self.local(words[0], words[1:])
            (other,) = (node for node in self.view.topology.nodes if node.port == port)
            return self.forward(other, words, LAST_HOP)
        return b"+OK\r\n" if answer == "OK" else encode(answer, False)


class Connection(socketserver.BaseRequestHandler):
    def setup(self):
        self.caller, self.asking = Caller(Kind.UNAWARE), False

    def handle(self):
        reader = hiredis.Reader()
        while data := self.request.recv(65536):
            reader.feed(data)
            while (words := reader.gets()) is not False:
                self.request.sendall(self.answer([words[0].upper(), *words[1:]]))

    def answer(self, words):
        member = self.server
        match words:
            case [b"KVTIDE.PEER", epoch]:
                self.caller = Caller(Kind.PEER, epoch=int(epoch))
                return b"+OK\r\n"
            case [b"ASKING"]:
                self.asking = True
                return b"+OK\r\n"
            case [b"CLUSTER", what]:
                self.caller = Caller(Kind.AWARE)
                reply = {b"SLOTS": replies.slots, b"SHARDS": replies.shards, b"NODES": replies.nodes}
                return encode({**reply, b"INFO": replies.info}[what.upper()](member.view), False)
            case [b"COMMAND", b"DOCS"]:
                return encode({}, False)
            case [b"COMMAND", *_]:
                return encode(COMMANDS, False)
            case [b"GET" | b"SET" | b"EXISTS" | b"MGET", *_]:
                return self.run(words)
            case [b"CLIENT", *_] | [b"PING"]:
                return b"+OK\r\n"
        return b"-ERR unknown command\r\n"

    def run(self, words):
        member, caller = self.server, Caller(self.caller.kind, self.asking, self.caller.epoch)
        self.asking = False
        keys = words[1:] if words[0] == b"MGET" else words[1:2]
        match decide(member.view, caller, keys, member.entries.__contains__):
            case Serve() if words[0] == b"MGET":
                return encode([member.entries.get(key) for key in keys], False)
            case Serve():
                return member.local(words[0], words[1:])
            case Forward(node):
                return member.forward(node, words, member.view.topology.epoch)
            case Scatter(each):
                return b"*%d\r\n" % len(each) + b"".join(map(self.one, each, keys))
            case refused:
                member.refused.append(refused)
                return replies.refusal(refused)

    def one(self, decision, key):
        if isinstance(decision, Serve):
            return self.server.local(b"GET", [key])
        return self.server.forward(decision.node, [b"GET", key], self.server.view.topology.epoch)


@pytest.fixture
def members():
    all_members = [Member() for _ in range(3)]
    topology = first_topology([member.node for member in all_members])
    for member in all_members:
        member.adopt(topology)
    share_epochs(all_members)
    yield all_members
    for member in all_members:
        member.shutdown()
        member.server_close()


def share_epochs(members):
    epochs = {member.node.id: member.view.topology.epoch for member in members}
    for member in members:
        member.hear({node_id: epoch for node_id, epoch in epochs.items() if node_id != member.node.id})


def plain(member):
    return redis.Redis(port=member.node.port, protocol=2)


def cluster_client(member):
    return redis.RedisCluster(host="127.0.0.1", port=member.node.port, protocol=2)


def test_rediscluster_uses_our_topology_and_slots(members):
    with cluster_client(members[0]) as client:
        for number in range(100):
            client.set(f"key:{number}", number)
        assert sum(len(member.entries) for member in members) == 100
        assert all(member.entries and member.forwarded == 0 for member in members)
        assert [client.get(f"key:{number}") for number in range(100)] == [b"%d" % n for n in range(100)]
        assert {(node.host, node.port) for node in client.get_nodes()} == {m.server_address for m in members}


def test_a_client_that_knows_no_cluster_finds_every_key_through_any_node(members):
    keys = [f"key:{number}" for number in range(60)]
    for number, key in enumerate(keys):
        with plain(members[number % 3]) as client:
            client.set(key, key)
    for member in members:
        with plain(member) as client:
            assert client.mget(keys) == [key.encode() for key in keys]
            assert all(client.exists(key) for key in keys)
        assert not member.refused


def test_all_clients_find_every_key_at_every_step_of_a_slot_move(members):
    before = members[0].view.topology
    sizes = (4 << 30, 1 << 30, 2 << 30)
    nodes = [Node(m.node.id, m.node.host, m.node.port, size) for m, size in zip(members, sizes, strict=True)]
    handover = plan_handover(before, rebalanced(before, nodes))
    by_id = {member.node.id: member for member in members}
    keys = [b"key:%d" % number for number in range(30)]
    with cluster_client(members[1]) as cluster, plain(members[2]) as single:
        for key in keys:
            cluster.set(key, key)
        for step in range(100):
            assert [cluster.get(key) for key in keys] == keys
            assert single.mget(keys) == keys
            cluster.set(f"step:{step}", b"")
            keys_moving = {
                member.node.id: [
                    key
                    for key in member.entries
                    if member.view.topology.target(key_slot(key)) and member.view.owns(key_slot(key))
                ]
                for member in members
            }
            emptied = {m.node.id for m in members if m.view.topology.moves and not keys_moving[m.node.id]}
            epochs = {member.node.id: member.view.topology.epoch for member in members}
            actions = handover.next_actions(epochs, emptied)
            if not actions:
                break
            match actions[0]:
                case Send(node, topology):
                    by_id[node.id].adopt(topology)
                case MoveEntries(source):
                    for key in keys_moving[source.id][:4]:
                        target = by_id[source.id].view.topology.target(key_slot(key))
                        by_id[target.id].entries[key] = by_id[source.id].entries.pop(key)
            if step % 2:
                share_epochs(members)
        share_epochs(members)
        assert not actions
        assert [cluster.get(key) for key in keys] == keys
        assert all(single.exists(f"step:{number}") for number in range(step))
    assert {member.view.topology for member in members} == {handover.moved}


def test_redis_cli_follows_moved_and_ask(members):
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed")
    owner, target, third = members
    topology = Topology(
        5,
        tuple(member.node for member in members),
        (SlotRange(0, 16383, owner.node.id),),
        (SlotRange(0, 16383, target.node.id),),
    )
    for member in members:
        member.adopt(topology)
    share_epochs(members)
    owner.entries[b"here"], target.entries[b"gone"] = b"1", b"2"
    commands = "CLUSTER NODES\nGET here\nCLUSTER NODES\nGET gone\n"
    run = subprocess.run(
        [program, "-c", "-p", str(third.node.port)],
        input=commands,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert run.stdout.splitlines()[-1] == "2"
    assert Moved(key_slot(b"here"), owner.node) in third.refused
    assert Ask(key_slot(b"gone"), target.node) in owner.refused


def test_cluster_nodes_and_shards_parse_as_redis_does(members):
    owner, target, _ = members
    topology = Topology(
        5,
        tuple(member.node for member in members),
        (
            SlotRange(0, 99, owner.node.id),
            SlotRange(100, 16382, target.node.id),
            SlotRange(16383, 16383, owner.node.id),
        ),
        (SlotRange(7, 8, target.node.id),),
    )
    view = View(topology, owner.node.id, {target.node.id: 4})
    lines = parse_cluster_nodes(replies.nodes(view))
    mine = lines[f"127.0.0.1:{owner.node.port}"]
    assert mine["node_id"] == owner.node.id
    assert mine["flags"] == "myself,master"
    assert mine["slots"] == [["0", "99"], ["16383"]]
    assert mine["migrations"] == [
        {"slot": str(slot), "node_id": target.node.id, "state": "migrating"} for slot in (7, 8)
    ]
    assert lines[f"127.0.0.1:{target.node.port}"]["epoch"] == "4"
    theirs = parse_cluster_nodes(replies.nodes(View(topology, target.node.id)))
    assert {move["state"] for move in theirs[f"127.0.0.1:{target.node.port}"]["migrations"]} == {"importing"}

    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(encode(replies.shards(view), False))
    shards = parse_cluster_shards(reader.gets())
    assert [shard["slots"] for shard in shards] == [[(0, 99), (16383, 16383)], [(100, 16382)], []]
    (second,) = shards[1]["nodes"]
    assert (second["id"], second["endpoint"], second["port"]) == (target.node.id, *target.server_address)
    assert "cluster_size:2\r\n" in replies.info(view)
    assert "cluster_current_epoch:5\r\n" in replies.info(view)
