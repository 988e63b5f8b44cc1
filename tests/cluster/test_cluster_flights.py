"""What clients see of entries that are just on their way from one node to another."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import redis

from kvtide_cachenode.cluster.handover import plan_handover
from kvtide_cachenode.cluster.redirect import View
from kvtide_cachenode.cluster.shares import first_topology, rebalanced
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.peers.link import PeerLostError, PeerState
from kvtide_cachenode.peers.slot_mover import Moved, SlotMover
from kvtide_cachenode.placement import LeastRecentlyUsed
from kvtide_cachenode.store import Store

MIB = 1 << 20
NODES = tuple(Node(f"{at:040x}", "127.0.0.1", 7000 + at, MIB) for at in range(2))


def emptied(nodes, topology, number):
    """The handover that leaves node ``number`` without slots."""
    shares = [Node(n.id, n.host, n.port, n.dram_bytes * (at != number)) for at, n in enumerate(nodes)]
    return plan_handover(topology, rebalanced(topology, shares))


def client_of(member):
    return redis.Redis(port=member.port, socket_timeout=20)


def keys_of(node, topology, count):
    names = (f"key:{number}" for number in range(10_000))
    owned = (name for name in names if topology.owner(key_slot(name.encode())).id == node.id)
    return [next(owned) for _ in range(count)]


def keys_moved(handover, source, target, count):
    arriving = set(keys_of(target, handover.moved, 2_000))
    return [key for key in keys_of(source, handover.moving, 500) if key in arriving][:count]


class HoldUp:
    """A way to a node on which the move of an entry stops: before the node has it, or before it says so."""

    def __init__(self, port, direction):
        self.to_port, self.direction = port, direction
        self.held, self.go_on = threading.Semaphore(0), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to_port))
                self.sockets += (near, far)
                moving = threading.Event()
                threading.Thread(target=self.pump, args=(near, far, "request", moving), daemon=True).start()
                threading.Thread(target=self.pump, args=(far, near, "reply", moving), daemon=True).start()

    def pump(self, source, sink, direction, moving):
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if direction == "request" and data.endswith(b"NX\r\n"):
                    moving.set()
                if direction == self.direction and moving.is_set():
                    if not self.go_on.is_set():
                        self.held.release()
                    self.go_on.wait()
                sink.sendall(data)

    def close(self):
        self.go_on.set()
        for each in self.sockets:
            each.close()


@pytest.mark.parametrize("direction", ["request", "reply"])
@pytest.mark.parametrize("through", [0, 1, 2], ids=["source", "target", "bystander"])
def test_a_change_waits_for_an_entry_on_its_way_and_holds_afterwards(cluster, direction, through):
    way = HoldUp(cluster[1].port, direction)
    cluster[1].node = replace(cluster[1].node, port=way.port)
    before = replace(first_topology([member.node for member in cluster]), epoch=2)
    for member in cluster:
        member.adopt(before)
    cluster.all_agree()
    handover = emptied(before.nodes, before, 0)
    deleted, overwritten = keys = keys_moved(handover, *before.nodes[:2], 2)
    everybody = [client_of(member) for member in cluster]
    everybody[0].mset(dict.fromkeys(keys, b"old" * 40_000))
    for at in (1, 2, 0):
        cluster[at].adopt(handover.moving)
    assert way.held.acquire(timeout=20)
    assert way.held.acquire(timeout=20)
    assert [client.mget(keys) for client in everybody] == [[b"old" * 40_000] * 2] * 3
    deleting, setting = client_of(cluster[through]), client_of(cluster[through])
    with ThreadPoolExecutor(2) as threads:
        changes = [threads.submit(deleting.delete, deleted), threads.submit(setting.set, overwritten, b"new")]
        assert not wait(changes, timeout=0.3).done
        assert [client.mget(keys) for client in everybody] == [[b"old" * 40_000] * 2] * 3
        way.go_on.set()
        assert [change.result(20) for change in changes] == [1, True]
    assert [client.mget(keys) for client in everybody] == [[None, b"new"]] * 3
    cluster.hand_over(handover)
    assert [client.mget(keys) for client in everybody] == [[None, b"new"]] * 3
    for client in (*everybody, deleting, setting):
        client.close()
    way.close()


class Target:
    """The other side of a move: keeps what it is sent, and loses its link at chosen commands."""

    def __init__(self, capacity_bytes=MIB):
        self.values, self.log, self.lose = {}, [], set()
        self.capacity_bytes = capacity_bytes
        self.between = lambda: None

    async def ask_state(self, node, epoch):
        return PeerState(node.id, epoch, self.capacity_bytes, 0)

    @asynccontextmanager
    async def link(self, *_):
        yield Link(self)


class Link:
    """One connection to a `Target`."""

    def __init__(self, target):
        self.target, self.answer, self.gone = target, b"", asyncio.Event()

    def send(self, *words):
        target = self.target
        word, key, *rest = words
        target.log.append((word, key, *(bytes(part) for part in rest)))
        if word == b"DEL":
            target.values.pop(key, None)
        elif b"NX" not in rest or key not in target.values:
            target.values[key] = bytes(rest[0])
        self.answer = b"OK"

    async def reply(self):
        target = self.target
        target.between()
        if len(target.log) in target.lose:
            raise PeerLostError("lost")
        return self.answer

    def close(self):
        self.gone.set()


def mover_of(store, target):
    handover = emptied(NODES, first_topology(list(NODES)), 0)
    return SlotMover(store, View(handover.moving, NODES[0].id), target, Moved())


def source_with(values):
    store = Store(4 * MIB, 4 * MIB, LeastRecentlyUsed())
    topology = first_topology(list(NODES))
    names = keys_of(NODES[0], topology, len(values))
    for name, value in zip(names, values, strict=True):
        store.put(name.encode(), value)
    return store, [name.encode() for name in names]


async def test_an_entry_that_grows_while_others_are_sent_goes_too():
    store, keys = source_with([b"v"] * 6)
    target = Target()

    def grow():
        held = {key for page in store.pages() for key in page}
        for key in held - mover.flights.keys():
            store.put(key, b"larger" * 100)

    target.between = grow
    mover = mover_of(store, target)
    await mover.run()
    assert sorted(target.values) == sorted(keys)
    assert len(store) == 0


async def test_only_what_the_target_can_keep_is_sent():
    store, keys = source_with([bytes(100_000) for _ in range(20)])
    target = Target(capacity_bytes=MIB)
    await mover_of(store, target).run()
    assert 8 <= len(target.values) <= 11
    assert set(target.values) == set(keys[-len(target.values) :])  # the hottest
    assert len(store) == 0


@pytest.mark.parametrize("change", ["none", "overwrite", "delete"])
async def test_what_a_lost_link_left_in_doubt_ends_as_it_is_here(change):
    store, (key,) = source_with([b"old"])
    target = Target()
    target.lose = {1}

    def alter():
        target.between = lambda: None
        if change == "overwrite":
            store.put(key, b"new")
        elif change == "delete":
            store.delete(key)

    target.between = alter
    await mover_of(store, target).run()
    assert target.values == {"none": {key: b"old"}, "overwrite": {key: b"new"}, "delete": {}}[change]
    assert len(store) == 0


async def test_what_the_target_has_already_is_newer():
    store, (key,) = source_with([b"old"])
    target = Target()
    target.values[key] = b"newer"
    await mover_of(store, target).run()
    assert target.values == {key: b"newer"}
    assert len(store) == 0
