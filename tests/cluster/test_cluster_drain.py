"""A drain whose peers are lost on the way: nothing changes hands, and the node serves on."""

from contextlib import asynccontextmanager

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node as Member
from kvtide_cachenode.node import Node
from kvtide_cachenode.peers import drain
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
