"""Redis Cluster's questions and announcements, and what nodes say to each other."""

import msgspec

from kvtide_cachenode.cluster import replies as topology_replies
from kvtide_cachenode.cluster.redirect import LAST_HOP, Caller, Kind, View
from kvtide_cachenode.cluster.slots import SLOTS, key_slot, keys_in_slot
from kvtide_cachenode.cluster.topology import Topology
from kvtide_cachenode.peers.membership import OlderTopologyError
from kvtide_cachenode.process.decoding import decode_aside
from kvtide_cachenode.serve.commands.table import command, fail_unknown, natural
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import Session
from kvtide_cachenode.wire import replies

ABOUT = {
    b"SLOTS": topology_replies.slots,
    b"SHARDS": topology_replies.shards,
    b"NODES": topology_replies.nodes,
    b"INFO": topology_replies.info,
}
# Who asks these can follow redirects from then on.
MAPS = frozenset({b"SLOTS", b"SHARDS", b"NODES"})
KNOWN = "SLOTS, SHARDS, NODES, INFO, MYID, KEYSLOT, COUNTKEYSINSLOT"


@command("cluster", -2, "")
def cluster(session: Session, request: Request) -> None:
    """CLUSTER SLOTS | SHARDS | NODES | INFO | MYID | KEYSLOT key | COUNTKEYSINSLOT slot."""
    words = request.words
    word, rest = words[1].upper(), words[2:]
    member = session.node.cluster
    match word, len(rest):
        case ((b"SLOTS" | b"SHARDS" | b"NODES" | b"INFO"), 0):
            _about(session, word, member.view)
        case b"MYID", 0:
            session.reply_with(member.id)
        case b"KEYSLOT", 1:
            session.reply(replies.integer(key_slot(rest[0])))
        case b"COUNTKEYSINSLOT", 1:
            _keys_in_slot(session, rest[0])
        case _:
            fail_unknown(session, word, KNOWN)


@command("asking", 1)
def asking(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """ASKING: the next command is about a slot that this node imports."""
    session.caller = Caller(session.caller.kind, asking=True, epoch=session.caller.epoch)
    session.reply(replies.OK)


@command("readonly", 1)
def readonly(session: Session, request: Request) -> None:  # noqa: ARG001 - every handler's signature
    """READONLY: there are no replicas, so nothing changes."""
    session.reply(replies.OK)


command("readwrite", 1)(readonly)


@command("kvtide.peer", 3, "admin fast")
def peer(session: Session, request: Request) -> None:
    """KVTIDE.PEER epoch id: the client is this node of the cluster, and forwards, one key a command."""
    words = request.words
    epoch = natural(words[1], LAST_HOP)
    if epoch is None:
        session.fail(f"KVTIDE.PEER epoch id: expected a number from 0 to {LAST_HOP} and a node's id")
        return
    session.caller = Caller(Kind.PEER, epoch=epoch)
    session.evidence = None
    # The node that its client is connected to observes the whole request.
    session.leave_trace()
    session.node.cluster.hear(words[2].decode("latin-1"), epoch)
    session.reply(replies.bulk(msgspec.json.encode(session.node.cluster.state())))


@command("kvtide.topology", 2, "admin", texts=range(1, 2))
def topology(session: Session, request: Request) -> None:
    """KVTIDE.TOPOLOGY json: a node that is being drained tells the others where its slots go."""
    session.answer_later(_adopt(session, request.words[1]))


async def _adopt(session: Session, document: bytes) -> None:
    try:
        session.node.cluster.adopt(await decode_aside(document, Topology))
    except (ValueError, OlderTopologyError) as error:
        session.fail(str(error))
        return
    session.reply(replies.bulk(msgspec.json.encode(session.node.cluster.state())))


def _about(session: Session, word: bytes, view: View | None) -> None:
    if view is None:
        session.fail("This instance has cluster support disabled")
        return
    if word in MAPS and session.caller.kind is Kind.UNAWARE:
        session.caller = Caller(Kind.AWARE)
        session.evidence = None
    said = ABOUT[word](view)
    session.reply_with(said)


def _keys_in_slot(session: Session, text: bytes) -> None:
    slot = natural(text, SLOTS - 1)
    if slot is None:
        session.fail(f"Invalid slot: expected a number from 0 to {SLOTS - 1}")
        return
    session.answer_later(_count_keys_in_slot(session, slot))


async def _count_keys_in_slot(session: Session, slot: int) -> None:
    count = 0
    for page in session.node.store.pages():
        count += sum(1 for _ in keys_in_slot(page, slot))
        await session.node.turns.share()
    session.reply(replies.integer(count))
