"""Replies whose value lies in the tier below, or that have to wait for it."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.client_memory import MAX_UNSENT_BYTES
from kvtide_cachenode.serve.commands.routing import run
from kvtide_cachenode.serve.commands.table import TABLE
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import ReplyCutError, Session
from kvtide_cachenode.store import CapacityError, Store, StreamBrokenError
from kvtide_cachenode.wire import replies

# Values of an MGET that are read while an earlier one is sent.
READ_AHEAD: Final = 4


async def reply_value(session: Session, key: bytes, access: Access | None = None) -> bool:
    """Queue the value of a key, wherever it is, or nil; whether there was one. ``access`` is for the trace.

    Raises:
        ReplyCutError: the value turned out to be damaged when a part of it was sent.
    """
    store = session.node.store
    try:
        entry = await store.fetch(key)
    except CapacityError:
        found = await _reply_stream(session, store, key)
    else:
        session.reply_entry(entry)
        found = entry is not None
    if access is not None:
        session.observe(access, (key,), (found,))
    return found


async def reply_values(session: Session, keys: list[bytes], head: tuple[bytes, ...]) -> None:
    """Queue ``head`` and several values, some of which are below: read ahead, sent as they come."""
    store = session.node.store
    for line in head:
        session.reply(line + replies.CRLF)
    hits = []
    for at, key in enumerate(keys):
        store.read_ahead(keys[at : at + READ_AHEAD])
        hits.append(await reply_value(session, key))
        if session.queued_bytes > MAX_UNSENT_BYTES:
            await session.room(MAX_UNSENT_BYTES)
    session.observe(Access.LOAD, keys, hits)


async def _reply_stream(session: Session, store: Store, key: bytes) -> bool:
    async with AsyncExitStack() as stack:
        try:
            value = await stack.enter_async_context(store.stream(key))
        except CapacityError as error:
            session.fail(str(error), "OOM")
            return False
        store.streamed(value.length)
        if value.length is None:
            session.reply(session.nil)
            return False
        session.reply(b"$%d\r\n" % value.length)
        try:
            async for piece in value.pieces():
                session.reply(piece)
                await session.room(0)
        except StreamBrokenError as error:
            raise ReplyCutError(str(error)) from error
        session.reply(replies.CRLF)
    return True


def acknowledge(session: Session, reply: bytes) -> None:
    """Queue the reply to a change, once no restart brings back what it replaced."""
    if session.node.store.unsettled:
        session.answer_later(_settled(session, reply))
    else:
        session.reply(reply)


async def _settled(session: Session, reply: bytes) -> None:
    await session.node.store.settle()
    session.reply(reply)


def acknowledge_held(session: Session) -> None:
    """Queue the value that the session holds in reply to its removal, once no restart brings it back."""
    if session.node.store.unsettled:
        session.answer_later(_settled_held(session))
    else:
        session.reply_held()


async def _settled_held(session: Session) -> None:
    await session.node.store.settle()
    session.reply_held()


def in_dram(session: Session, request: Request, then: Callable[[], None]) -> None:
    """Run ``then``, which needs the old value of a command's key in DRAM, once it is there."""
    if session.node.store.below(request.words[1]):
        session.answer_later(_fetched(session, request))
    else:
        then()


async def _fetched(session: Session, request: Request) -> None:
    """Run the command anew, from its routing on: meanwhile its key may have gone to another node."""
    words, store = request.words, session.node.store
    try:
        await store.fetch(words[1])
    except CapacityError as error:
        session.fail(str(error), "OOM")
        return
    if store.below(words[1]):  # it would be fetched again, and again
        session.fail("the value is on the SSD, which cannot be read now: try again")
        return
    run(session, TABLE[words[0].upper()], request)
