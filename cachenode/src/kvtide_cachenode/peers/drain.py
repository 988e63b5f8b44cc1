"""Emptying a node into its peers: it gives up all its slots, and drives that handover itself."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Final

import msgspec

from kvtide_cachenode.cluster.handover import Handover, Send, ongoing, plan_handover
from kvtide_cachenode.cluster.shares import rebalanced
from kvtide_cachenode.cluster.topology import NOBODY
from kvtide_cachenode.peers.link import PeerLostError
from kvtide_cachenode.peers.membership import Membership

STEP_S: Final = 0.05
# Beside the entries: documents to all nodes, and waiting for one that does not answer.
MARGIN_S: Final = 10.0
log = logging.getLogger("kvtide_node")


class CannotDrainError(Exception):
    """There is nobody to drain into, a member is silent, or slots are moving otherwise; one sentence."""


async def drain(member: Membership, deadline_s: float) -> bool:
    """Move all slots and what fits of their entries to the other members, in proportion to their DRAM.

    Entries that are not sent within ``deadline_s`` are dropped. Returns whether every member has learnt of
    it; calling it again goes on where it was left. When a member is lost meanwhile and no slot has changed
    its owner yet, the handover is given up: this node keeps its slots.

    Raises:
        CannotDrainError: no other member has DRAM, one does not answer, or another handover is under way.
    """
    handover = _handover(member, deadline_s)
    if handover is not None:
        await _all_answer(member)
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
    if handover is None:
        return True
    if max(member.epoch, *member.peers.heard.values(), 0) < handover.moved.epoch:
        await _give_up(member, handover)
    return False


async def _all_answer(member: Membership) -> None:
    """See that nobody is silent: a handover takes all members."""
    assert member.view is not None, "there is something to hand over"
    topology = member.view.topology
    others = [node for node in topology.nodes if node.id != member.id]
    await member.peers.poll(others, topology.epoch)
    for node in others:
        if node.id not in member.peers.heard:
            raise CannotDrainError(
                f"node {node.id} at {node.host}:{node.port} does not answer, and slots move only when all "
                f"members know: start it again, or give the cluster a topology without it"
            )


async def _give_up(member: Membership, handover: Handover) -> None:
    before = handover.given_up()
    log.warning("the drain is given up: of %d members not all answer", len(before.nodes))
    member.adopt(before)
    answering = [node for node in before.nodes if node.id in member.peers.heard]
    await asyncio.gather(*(_give(member, Send(node, before)) for node in answering))


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
