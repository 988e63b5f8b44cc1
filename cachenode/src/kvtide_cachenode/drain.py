"""Emptying a node into its peers: it gives up all its slots, and drives that handover itself."""

import asyncio
import time
from dataclasses import replace
from typing import Final

import msgspec

from kvtide_cachenode.cluster.handover import Handover, Send, ongoing, plan_handover
from kvtide_cachenode.cluster.shares import rebalanced
from kvtide_cachenode.cluster.topology import NOBODY
from kvtide_cachenode.membership import Membership
from kvtide_cachenode.peer_link import PeerLostError

STEP_S: Final = 0.05
# Beside the entries: documents to all nodes, and waiting for one that does not answer.
MARGIN_S: Final = 10.0


class CannotDrainError(Exception):
    """There is nobody to drain into, or slots are moving otherwise; one sentence."""


async def drain(member: Membership, deadline_s: float) -> bool:
    """Move all slots and what fits of their entries to the other members, in proportion to their DRAM.

    Entries that are not sent within ``deadline_s`` are dropped. Returns whether every member has learnt of
    it; calling it again goes on where it was left.

    Raises:
        CannotDrainError: no other member has DRAM, or another handover is under way.
    """
    handover = _handover(member, deadline_s)
    until_s = time.monotonic() + deadline_s + MARGIN_S
    while handover is not None and time.monotonic() < until_s:
        topology = member.view.topology if member.view is not None else handover.moving
        others = [node for node in handover.moving.nodes if node.id != member.id]
        await member.peers.poll(others, topology.epoch)
        epochs = {**member.peers.heard, member.id: member.epoch}
        actions = handover.next_actions(epochs, {member.id} if member.emptied else ())
        if not actions:
            return True
        await asyncio.gather(*(_give(member, action) for action in actions if isinstance(action, Send)))
        if not member.emptied:
            await asyncio.sleep(STEP_S)
    return handover is None


def _handover(member: Membership, deadline_s: float) -> Handover | None:
    """The way from here to a topology in which this node owns nothing; None when that is so already."""
    if member.view is None:
        raise CannotDrainError("this node is in no cluster: there is nobody to take its entries")
    topology, place = member.view.topology, member.view.place
    if topology.moves:
        mine = [to for owner, to in zip(topology.owners, topology.targets, strict=True) if owner == place]
        if NOBODY in mine:
            raise CannotDrainError(
                f"slots are moving at epoch {topology.epoch}: drain the node when that handover is complete"
            )
        return ongoing(topology)
    if place not in topology.owners:
        return None
    nodes = [replace(node, dram_bytes=0) if node.id == member.id else node for node in topology.nodes]
    if not any(node.dram_bytes for node in nodes):
        raise CannotDrainError("no other node of the cluster has DRAM: there is nobody to take the entries")
    return plan_handover(topology, replace(rebalanced(topology, nodes), deadline_s=deadline_s))


async def _give(member: Membership, action: Send) -> None:
    if action.node.id == member.id:
        member.adopt(action.topology)
        return
    document = msgspec.json.encode(action.topology)
    try:
        async with (
            asyncio.timeout(MARGIN_S),
            member.peers.link((action.node.host, action.node.port), action.topology.epoch) as link,
        ):
            link.send(b"KVTIDE.TOPOLOGY", document)
            await link.state()
    except (PeerLostError, TimeoutError):
        return  # it is asked again as long as it reports an older epoch
