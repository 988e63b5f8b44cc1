"""Commands whose keys are elsewhere: sent to the node that has them, its reply streamed to the client.

What is not here of a reply is in the peer's socket: a reply passes through one link's buffer, and no more is
read than the client takes. A value on its way to its owner lies in the arena, charged like any other, until
the owner has answered, so that it can be sent once more when that node names another one.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.client_memory import MAX_UNSENT_BYTES
from kvtide_cachenode.cluster.redirect import LAST_HOP, UNAWARE, Forward, Serve, decide
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.peers.link import PeerLink, PeerLostError, bulk_length
from kvtide_cachenode.peers.membership import Membership
from kvtide_cachenode.serve.commands.splits import SPLITS, VALUES, Merge, Split
from kvtide_cachenode.serve.commands.table import TABLE, natural
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import ReplyCutError, Session
from kvtide_cachenode.wire import replies

# From sending a command to the first byte of its reply; then, to the last byte of it.
ANSWER_S: Final = 10.0
STREAM_S: Final = 60.0
COPIED_BYTES: Final = 16 * 1024  # a shorter rest of a reply is copied, so that the link is free at once
PORT_DIGITS: Final = 5


class ServeHere(Exception):  # noqa: N818 - no error: the owner says that this node has the key
    """The peer named this node."""


async def forward(session: Session, name: str, request: Request, owner: Node, epoch: int) -> None:
    """Have ``owner``, who has the key as of ``epoch``, run a command on it, and pass its reply on."""
    how = SPLITS[name]
    async with AsyncExitStack() as stack:
        try:
            link, line = await ask(stack, session.node.cluster, owner, epoch, _sent(request))
        except (PeerLostError, TimeoutError) as error:
            line = _unreachable(session, how, owner, error)
            session.reply(session.nil if line == b"$-1" else line + replies.CRLF)
            return
        except ServeHere:
            await _serve(session, request)
            return
        await _relay(session, link, line)
    _observe(session, how, request.words[1:2], [not _nothing(line)])


async def scatter(
    session: Session, name: str, request: Request, each: Sequence[Serve | Forward], epoch: int
) -> None:
    """Run a command on several keys, each where it is as of ``epoch``, and merge the replies in their order.

    The keys of one node are asked for in one pipeline; the links are taken in one order by everybody, so that
    two commands never wait for each other's.
    """
    how, arguments = SPLITS[name], request.moved().arguments()
    step = (len(arguments) - 1) // len(each)
    parts = [Request.of([how.each, *arguments[at : at + step]]) for at in range(1, len(arguments), step)]
    inference, session.inference = session.inference, None  # the command is observed once, as a whole
    try:
        async with AsyncExitStack() as stack:
            links = await _pipelines(stack, session, parts, each, epoch)
            lines = await _merged(session, how, parts, each, links)
    finally:
        session.inference = inference
        for part in parts:
            part.release(session.node.store)
    _observe(session, how, [part.words[1] for part in parts], [not _nothing(line) for line in lines])


async def ask(
    stack: AsyncExitStack, cluster: Membership, owner: Node, epoch: int, words: Sequence[bytes | memoryview]
) -> tuple[PeerLink, bytes]:
    """Send a command to ``owner`` and, where that one names another node, once more to that.

    ``epoch`` is that of the topology that named the owner, not of one adopted since: told a newer epoch, a
    node believes that it is meant, and serves what it may have sent away. Returns the link and the first line
    of the reply; the caller reads the rest and calls `PeerLink.taken`.

    Raises:
        PeerLostError: the node does not answer.
        TimeoutError: it does not answer in time.
        ServeHere: it says that this node has the key.
    """
    cluster.counters.forwarded += 1
    address = owner.host, owner.port
    async with asyncio.timeout(ANSWER_S):
        while True:
            link = await stack.enter_async_context(cluster.peers.link(address, epoch))
            link.send(*words)
            line = await link.line()
            named = _named(line)
            if named is None or epoch == LAST_HOP:
                return link, line
            link.taken()
            await stack.aclose()
            if named == cluster.address:
                raise ServeHere
            address, epoch = named, LAST_HOP


async def stream(session: Session, link: PeerLink, left: int, dropped: int = 0) -> None:
    """Pass ``left`` bytes of a reply on, no faster than the client reads; ``dropped`` more end the reply.

    Raises:
        ReplyCutError: the peer is lost in the middle of it.
    """
    try:
        async with asyncio.timeout(STREAM_S):
            while left:
                chunk = await link.chunk(left)
                left -= len(chunk)
                if not left and len(chunk) <= COPIED_BYTES:
                    session.reply(bytes(chunk))
                else:
                    session.reply(chunk)
                    await session.room(0)
                link.consume(len(chunk))
            await link.drop(dropped)
    except (PeerLostError, TimeoutError) as error:
        raise ReplyCutError(str(error)) from None
    link.taken()


async def _pipelines(
    stack: AsyncExitStack,
    session: Session,
    parts: list[Request],
    each: Sequence[Serve | Forward],
    epoch: int,
) -> dict[str, PeerLink]:
    """Links by node id, every request that is to be forwarded on its way."""
    cluster = session.node.cluster
    owners = {decision.node.id: decision.node for decision in each if isinstance(decision, Forward)}
    links = {}
    for node_id in sorted(owners):
        owner = owners[node_id]
        try:
            link = await stack.enter_async_context(cluster.peers.link((owner.host, owner.port), epoch))
            for part, decision in zip(parts, each, strict=True):
                if isinstance(decision, Forward) and decision.node.id == node_id:
                    link.send(*_sent(part))
                    cluster.counters.forwarded += 1
        except PeerLostError:
            continue
        links[node_id] = link
    return links


async def _merged(
    session: Session,
    how: Split,
    parts: list[Request],
    each: Sequence[Serve | Forward],
    links: dict[str, PeerLink],
) -> list[bytes]:
    """Queue the merged reply; the first line of each single one."""
    if how.merge is Merge.ARRAY:
        session.reply(b"*%d\r\n" % len(each))
    lines = []
    for part, decision in zip(parts, each, strict=True):
        if isinstance(decision, Serve):
            line = await _served_or_asked(session, how, part)
        else:
            line = await _forwarded(session, how, part, decision.node, links)
        lines.append(line)
        if session.queued_bytes > MAX_UNSENT_BYTES:
            await session.room(MAX_UNSENT_BYTES)
    if how.merge not in VALUES:
        failed = next((line for line in lines if line[:1] == b"-"), None)
        total = b"+OK" if how.merge is Merge.OK else b":%d" % sum(natural(line[1:], 1) or 0 for line in lines)
        session.reply((failed or total) + replies.CRLF)
    return lines


async def _served(session: Session, how: Split, part: Request) -> bytes:
    """Run one key's command here; its reply is queued for an array, else only returned."""
    if how.merge in VALUES:
        present = session.node.store.exists(part.words[1])
        await _serve(session, part)
        return b"$" if present else b"$-1"
    await session.room(0)  # what is queued from here on is the reply
    await _serve(session, part)
    return session.take_back().removesuffix(replies.CRLF)


async def _served_or_asked(session: Session, how: Split, part: Request) -> bytes:
    """Run one key's command here, unless the key was sent away while earlier keys were waited for."""
    if "write" in TABLE[how.each].flags:
        await session.node.cluster.landed(part.words[1:2])
    view = session.node.cluster.view
    assert view is not None, "a command is scattered in a cluster"
    decision = decide(view, UNAWARE, (part.words[1],), session.node.store.exists)
    if isinstance(decision, Forward):
        return await _asked(session, how, part, decision.node, view.topology.epoch)
    return await _served(session, how, part)


async def _asked(session: Session, how: Split, part: Request, owner: Node, epoch: int) -> bytes:
    """Ask a node for one key; its reply is queued for an array, else only returned."""
    try:
        async with AsyncExitStack() as stack:
            link, line = await ask(stack, session.node.cluster, owner, epoch, _sent(part))
            await _take(session, how, link, line)
            return line
    except ServeHere:
        return await _served(session, how, part)
    except (PeerLostError, TimeoutError) as error:
        return _lost(session, how, owner, error)


async def _forwarded(
    session: Session, how: Split, part: Request, owner: Node, links: dict[str, PeerLink]
) -> bytes:
    """Take one key's reply off its link; it is queued for an array, else only returned."""
    link = links.get(owner.id)
    try:
        if link is None:
            raise PeerLostError("no link")
        async with asyncio.timeout(ANSWER_S):
            line = await link.line()
        named = _named(line)
        if named is None:
            await _take(session, how, link, line)
            return line
        link.taken()
    except (PeerLostError, TimeoutError) as error:
        links.pop(owner.id, None)  # what else it was asked for is not waited for
        return _lost(session, how, owner, error)
    if named == session.node.cluster.address:
        return await _served(session, how, part)
    return await _asked(session, how, part, Node(owner.id, *named, 0), LAST_HOP)


def _lost(session: Session, how: Split, owner: Node, error: Exception) -> bytes:
    line = _unreachable(session, how, owner, error)
    if how.merge in VALUES:
        session.reply(session.nil)
    return line


async def _take(session: Session, how: Split, link: PeerLink, line: bytes) -> None:
    if how.merge in VALUES:
        await _relay(session, link, line)
    else:
        link.taken()


async def _relay(session: Session, link: PeerLink, line: bytes) -> None:
    """Queue a reply whose first line was read."""
    length = bulk_length(line)
    session.node.cluster.counters.forwarded_bytes += length or 0
    if length is None:
        link.taken()
        session.reply(session.nil if line == b"$-1" else line + replies.CRLF)
    else:
        session.reply(line + replies.CRLF)
        await stream(session, link, length + 2)


async def _serve(session: Session, request: Request) -> None:
    TABLE[request.words[0].upper()].handler(session, request)
    await session.finish()


def _unreachable(session: Session, how: Split, owner: Node, error: Exception) -> bytes:
    session.node.cluster.counters.forward_failures += 1
    if how.missing is not None:
        return how.missing
    reason = str(error) or f"no answer within {ANSWER_S:.0f} s"
    sentence = f"the keys' owner {owner.host}:{owner.port} does not answer: {reason}"
    return replies.error(sentence, "CLUSTERDOWN").removesuffix(replies.CRLF)


def _sent(request: Request) -> list[bytes | memoryview]:
    """A request as it goes to a peer; values are sent from where they landed."""
    return [said if isinstance(said, bytes) else said.memory for said in request.arguments()]


def _named(line: bytes) -> tuple[str, int] | None:
    """The node that a redirect names.

    Raises:
        PeerLostError: it names none.
    """
    if not line.startswith((b"-MOVED ", b"-ASK ")):
        return None
    host, _, port = line.decode("latin-1").split(" ")[-1].rpartition(":")
    if not port.isdecimal() or not 0 < len(port) <= PORT_DIGITS:
        raise PeerLostError("a redirect names no node")
    return host, int(port)


def _nothing(line: bytes) -> bool:
    """Whether a single key's reply says that the key is not there."""
    return line in (b"$-1", b":0")


def _observe(session: Session, how: Split, keys: list[bytes], found: list[bool]) -> None:
    if how.access is not None:
        hits = [False] * len(keys) if how.access is Access.STORE else found
        session.observe(how.access, keys, hits)
