"""A drain whose peers are lost on the way: nothing changes hands, and the node serves on."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.cluster.topology import SlotRange
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers import drain, slot_mover
from kvtide_cachenode.peers.link import PeerLostError
from kvtide_cachenode.placement import make_policy
from kvtide_cachenode.store import Store

MI = 1 << 20


class LostPeers:
    """A peer that answers the first question and no other."""

    def __init__(self, peer):
        self.heard = {}
        self._peer = peer
        self._asked = 0

    async def poll(self, members, epoch):
        del members
        self.heard = {} if self._asked else {self._peer.id: epoch}
        self._asked += 1

    @asynccontextmanager
    async def link(self, address, epoch):
        raise PeerLostError(f"{address} is gone at {epoch}")
        yield

    def keep(self, members):
        pass

    def close(self):
        pass


async def test_when_a_peer_is_lost_the_drain_is_given_up(monkeypatch):
    monkeypatch.setattr(drain, "MARGIN_S", 0.1)
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    member, peer = node.cluster, Member("f" * 40, "127.0.0.1", 2, MI)
    before = first_topology([Member(node.node_id, "127.0.0.1", 1, MI), peer])
    member.peers = LostPeers(peer)
    member.adopt(before)
    try:
        assert await drain.drain(member, 0.1) is False
    finally:
        await member.stop()
    assert member.owns_slots
    assert member.view.topology.owners == before.owners
    assert member.epoch > before.epoch + 2  # so that who heard of the drain comes back, too


async def test_what_is_left_of_a_slot_move_is_dropped_in_pages(monkeypatch):
    """All at once would hold the loop for seconds."""
    monkeypatch.setattr(slot_mover, "PAGE_KEYS", 100)
    node = Node(Store(8 * MI, 64 * MI, make_policy("lru")), block_tokens=16)
    member, peer = node.cluster, Member("f" * 40, "127.0.0.1", 2, 0)
    before = first_topology([Member(node.node_id, "127.0.0.1", 1, MI), peer])
    member.peers = LostPeers(peer)
    member.peers.ask_state = no_state
    member.adopt(before)
    await asyncio.sleep(0)
    for number in range(5000):
        node.store.put(b"%d" % number, b"v")
    mine = tuple(SlotRange(first, last, peer.id) for first, last in before.ranges_of(node.node_id))
    dropped, most, seen = 0, 0, 0
    forget = node.store.forget

    def counted(key):
        nonlocal dropped
        dropped += 1
        forget(key)

    node.store.forget = counted
    try:
        member.adopt(replace(before, epoch=before.epoch + 1, moves=mine, deadline_s=0.0))
        async with asyncio.timeout(120):
            while not member.emptied:
                await asyncio.sleep(0)
                most, seen = max(most, dropped - seen), dropped
    finally:
        await member.stop()
    assert most == 100
    assert dropped == member.moved.left == 5000


async def no_state(*_):
    return None
