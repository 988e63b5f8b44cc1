"""One `lm://` client: LMCache's binary protocol on the same flow control, store and cluster as RESP.

The protocol knows neither users nor errors: whoever can connect may read and write, and what goes wrong is a
miss, a value that is not stored, or, for nonsense, the end of the connection.
"""

import asyncio
import socket
from contextlib import AsyncExitStack

from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.cluster.redirect import UNAWARE, Forward, decide
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.peers.link import PeerLink, PeerLostError, bulk_length
from kvtide_cachenode.serve.commands.forward import ANSWER_S, ServeHere, ask, stream
from kvtide_cachenode.serve.connection import Connection
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.session import ReplyCutError
from kvtide_cachenode.store import (
    EVICTED_AT_ONCE,
    CapacityError,
    Entry,
    Reservation,
    Store,
    StreamBrokenError,
)
from kvtide_cachenode.store.store import INLINE_BYTES
from kvtide_cachenode.wire import lm
from kvtide_cachenode.wire.events import Room

CRLF_BYTES = 2
VALUE = 0  # the only argument of a PUT


class LmConnection(Connection):
    """Serves `lm://` until either side closes."""

    failure = b""  # the protocol has no errors

    def _make_parser(self) -> None:
        self._parser = self._lm = lm.RequestParser()
        self._value: Reservation | bytearray | None = None

    def cut_off(self, sentence: str) -> None:  # noqa: ARG002 - the protocol has no words for it
        """See `Connection.cut_off`."""
        self.close()

    def _let_go(self) -> None:
        self._parser.put_aside()
        self._parser = self._lm = lm.RequestParser()  # the other one knows this connection, by `_grow`
        self._take().release(self.session.node.store)
        self.session.close()

    def _run_events(self) -> None:
        session, parser = self.session, self._lm
        most_bytes = self._clients.unsent_bytes
        queued_bytes, request = session.queued_bytes, None
        try:
            while not session.closing:
                if session.queued_bytes > most_bytes and self._piled_up():
                    return
                queued_bytes = session.queued_bytes
                event = parser.next_event()
                if event is None:
                    return
                session.last_command = b"lm"
                request = self._execute(event)
                if session.later is not None:
                    self._answer_later(request)
                    return
                request.release(session.node.store)
        except Exception as error:  # noqa: BLE001 - a defect ends the connection, not the node
            self._failed("lm", error, begun=session.queued_bytes > queued_bytes)
            if request is not None:
                request.release(session.node.store)
            return
        self._pause()
        if not session.out:
            self.close()

    def _wanted_next(self) -> list[bytes]:
        return []  # clients send one command at a time

    def _execute(self, event: lm.Event) -> Request:
        """Do what an event asks for; the request that it was, with what nobody took of it."""
        request = Request([])
        self.session.node.commands_total += not isinstance(event, lm.Value)
        match event:
            case lm.Value(key, length):
                self._lm.land(self._land(key, length), self._grow)
            case lm.Put(key):
                request = self._take()
                self._put(key, request)
            case lm.Get(key):
                self._get(key)
            case lm.Exist(key):
                self._exist(key)
            case lm.Health():
                self.session.reply(lm.YES)
            case lm.Broken():
                self.session.closing = True
        return request

    def _elsewhere(self, key: bytes) -> tuple[Node, int] | None:
        """The node to ask for a key and the epoch by which it is that one; None when it is this one."""
        view = self.session.node.cluster.view
        if view is None or view.settled[key_slot(key)]:
            return None
        decision = decide(view, UNAWARE, (key,), self.session.node.store.exists)
        return (decision.node, view.topology.epoch) if isinstance(decision, Forward) else None

    def _land(self, key: bytes, length: int) -> memoryview | None:
        # LMCache sends header and payload in two writes and leaves Nagle's algorithm on: without an
        # acknowledgement at once, the end of a payload waits at the sender for this side's delayed one.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if length <= INLINE_BYTES:
            self._value = bytearray(length)
            return memoryview(self._value)
        try:
            self._value = self.session.node.store.reserve(key, length)
        except CapacityError:
            return None
        return self._value.memory

    def _grow(self, to_bytes: int) -> Room:
        """Make room for the first bytes of the value that is arriving; without it is not stored."""
        if isinstance(self._value, Reservation):
            try:
                if not self.session.node.store.grow(self._value, to_bytes, EVICTED_AT_ONCE):
                    return Room.LATER
            except CapacityError:
                self._take().release(self.session.node.store)
                return Room.NEVER
        return Room.HERE

    def _take(self) -> Request:
        """The value that has arrived, as a request that holds it; no value where it had no room."""
        value, self._value = self._value, None
        if isinstance(value, Reservation):
            return Request([], {VALUE: value})
        return Request([] if value is None else [bytes(value)])

    def _put(self, key: bytes, request: Request) -> None:
        if self.session.node.cluster.flying((key,)):
            self.session.answer_later(self._put_landed(key, request))
        else:
            self._keep(key, request)

    async def _put_landed(self, key: bytes, request: Request) -> None:
        """Put a key that is on its way to another node, once it is there."""
        await self.session.node.cluster.landed((key,))
        self._keep(key, request)

    def _keep(self, key: bytes, request: Request) -> None:
        store, owner = self.session.node.store, self._elsewhere(key)
        if owner is not None:
            if request.words or request.values:
                self.session.answer_later(self._put_elsewhere(*owner, key, request))
            return
        self._keep_here(key, request)
        self.session.observe(Access.STORE, (key,), (False,))
        if store.unsettled:
            self.session.answer_later(store.settle())

    def _keep_here(self, key: bytes, request: Request) -> None:
        store = self.session.node.store
        try:
            reservation = request.take(VALUE)
            if reservation is not None:
                store.commit(key, reservation)
            elif request.words:
                store.put(key, request.words[0])
            else:  # it had no room, and what it replaces is out of date
                store.forget(key)
        except CapacityError:
            store.forget(key)

    def _get(self, key: bytes) -> None:
        owner = self._elsewhere(key)
        if owner is not None:
            self.session.answer_later(self._get_elsewhere(*owner, key))
        else:
            self._get_here(key)

    def _get_here(self, key: bytes) -> None:
        """Reply with a value of this node, whichever tier has it."""
        store = self.session.node.store
        entry = store.get(key)
        if entry is None and store.below(key):
            self.session.answer_later(self._get_below(store, key))
        else:
            self._reply_entry(key, entry)

    def _exist(self, key: bytes) -> None:
        owner = self._elsewhere(key)
        if owner is not None:
            self.session.answer_later(self._exist_elsewhere(*owner, key))
            return
        node = self.session.node
        self._reply_exist(key, node.store.exists(key))

    def _reply_exist(self, key: bytes, found: bool) -> None:
        counters = self.session.node.store.counters
        counters.exists_hits += found
        counters.exists_misses += not found
        self.session.reply(lm.YES if found else lm.NO)
        self.session.observe(Access.LOOK_UP, (key,), (found,))

    def _reply_entry(self, key: bytes, entry: Entry | None) -> None:
        session = self.session
        head = None
        if entry is not None:
            value = session.node.store.decoded(entry)
            head = lm.found(value, len(value))
            if isinstance(value, bytes):
                if head is not None:
                    session.reply(head + value[lm.METADATA_BYTES :])
            elif head is None:
                session.node.store.unpin(entry)
            else:
                session.reply_pinned(head, value[lm.METADATA_BYTES :], entry)
        if head is None:
            session.reply(lm.NO)
        session.observe(Access.LOAD, (key,), (head is not None,))

    async def _get_below(self, store: Store, key: bytes) -> None:
        """Reply with a value that was on the SSD when it was asked for."""
        try:
            self._reply_entry(key, await store.fetch(key))
            return
        except CapacityError:
            pass
        found = False
        async with AsyncExitStack() as stack:
            try:
                value = await stack.enter_async_context(store.stream(key))
            except CapacityError:
                self.session.reply(lm.NO)
                self.session.observe(Access.LOAD, (key,), (False,))
                return
            store.streamed(value.length)
            try:
                async for piece in value.pieces():
                    if found:
                        self.session.reply(piece)
                    else:
                        head = lm.found(piece, value.length or 0)
                        if head is None:
                            break
                        found = True
                        self.session.reply(head)
                        self.session.reply(piece[lm.METADATA_BYTES :])
                    await self.session.room(0)
            except StreamBrokenError as error:
                if found:
                    raise ReplyCutError(str(error)) from error
        if not found:
            self.session.reply(lm.NO)
        self.session.observe(Access.LOAD, (key,), (found,))

    async def _put_elsewhere(self, owner: Node, epoch: int, key: bytes, request: Request) -> None:
        """A PUT has no reply: when its owner does not take it, it is a value that was not stored."""
        node = self.session.node
        (value,) = request.arguments()
        payload = value if isinstance(value, bytes) else value.memory
        try:
            async with AsyncExitStack() as stack:
                link, _ = await ask(stack, node.cluster, owner, epoch, [b"SET", key, payload])
                link.taken()
        except (PeerLostError, TimeoutError):
            node.cluster.counters.forward_failures += 1
        except ServeHere:
            self._keep_here(key, request)
            if node.store.unsettled:
                await node.store.settle()
        self.session.observe(Access.STORE, (key,), (False,))

    async def _get_elsewhere(self, owner: Node, epoch: int, key: bytes) -> None:
        session = self.session
        found = False
        try:
            async with AsyncExitStack() as stack:
                link, line = await ask(stack, session.node.cluster, owner, epoch, [b"GET", key])
                found = await self._relay(link, bulk_length(line))
        except (PeerLostError, TimeoutError):
            session.node.cluster.counters.forward_failures += 1
        except ServeHere:
            self._get_here(key)
            return
        if not found:
            session.reply(lm.NO)
        session.observe(Access.LOAD, (key,), (found,))

    async def _relay(self, link: PeerLink, length: int | None) -> bool:
        """Pass a RESP value on as `lm://`; whether it was one."""
        if length is None:
            link.taken()
            return False
        description = b""
        async with asyncio.timeout(ANSWER_S):
            while len(description) < min(lm.METADATA_BYTES, length):
                chunk = bytes(await link.chunk(lm.METADATA_BYTES - len(description)))
                link.consume(len(chunk))
                description += chunk
        head = lm.found(description, length)
        if head is None:
            return False  # the rest is not read: the link is closed
        self.session.reply(head)
        await stream(self.session, link, length - lm.METADATA_BYTES, CRLF_BYTES)
        return True

    async def _exist_elsewhere(self, owner: Node, epoch: int, key: bytes) -> None:
        session = self.session
        found = False
        try:
            async with AsyncExitStack() as stack:
                link, line = await ask(stack, session.node.cluster, owner, epoch, [b"EXISTS", key])
                link.taken()
                found = line == b":1"
        except (PeerLostError, TimeoutError):
            session.node.cluster.counters.forward_failures += 1
        except ServeHere:
            found = session.node.store.exists(key)
        session.reply(lm.YES if found else lm.NO)
        session.observe(Access.LOOK_UP, (key,), (found,))
