"""One client's conversation: what it said of itself, and the replies that are not sent yet."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvtide_cachenode.access.users import User, role_of
from kvtide_cachenode.access_trace.client import Client
from kvtide_cachenode.access_trace.inference import Access
from kvtide_cachenode.cluster.awareness import Evidence
from kvtide_cachenode.cluster.redirect import UNAWARE
from kvtide_cachenode.node import Node
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.store import Entry, Store
from kvtide_cachenode.store.store import INLINE_BYTES
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.replies import Reply

# What a queued buffer takes beside its bytes.
BUFFER_OVERHEAD_BYTES = 48
# Single keys told to the trace as one access, and accesses that wait to be told: more are told at once.
OBSERVED_KEYS = 256
OBSERVED_MOST = 8
# By this command a node of the cluster makes itself known.
PEER = "kvtide.peer"
# First lines, without their ends, of the bulk strings that values in the index are.
_BULK_HEADERS = [b"$%d" % length for length in range(INLINE_BYTES + 1)]


class ReplyCutError(Exception):
    """A reply whose length was announced cannot be finished: all that is left is to close the connection."""


@dataclass(slots=True)
class Transaction:
    """The commands between MULTI and EXEC, of so many ``keys``; when one was ``wrong``, none is run."""

    queued: list[tuple[bytes, Request]] = field(default_factory=list)
    keys: int = 0
    wrong: bool = False

    def release(self, store: Store) -> None:
        """Give up the values of commands that were not run."""
        for _, request in self.queued:
            request.release(store)


class Session:
    """The state of one connection, without its socket.

    ``out`` is what must be sent, in order; entries sent from the arena are pinned until `sent` has counted
    past them.
    """

    def __init__(self, node: Node, session_id: int, address: str) -> None:
        self.node = node
        self.id = session_id
        self.address = address
        self.name = b""
        self.library: dict[str, bytes] = {}
        self.resp3 = False
        self.nil = replies.NIL2
        self.guest = False
        self.on_user: Callable[[], None] = _not_connected
        self.become(node.users.initial)
        self.closing = False
        self.now_s = 0.0
        self.connected_s = node.uptime_s()
        self.last_command = b""
        self.out: list[bytes | memoryview] = []
        self.queued_bytes = 0
        self.transaction: Transaction | None = None
        self.transaction_bytes = 0  # what its words take, until all have run
        self.later: Coroutine[Any, Any, object] | None = None
        self.push: Callable[[], None] = _not_connected
        self._room: asyncio.Event | None = None
        self.caller = UNAWARE
        self.evidence: Evidence | None = Evidence()
        self.inference: Client | None = Client(node.inference, address.rpartition(":")[0])
        self._observed: deque[tuple[Access, list[bytes], list[bool], float]] = deque()
        self.in_exec = False  # nobody is let in between two commands, and the trace is told afterwards
        self._pins: deque[tuple[int, Entry]] = deque()  # (all bytes queued when its last byte was, entry)
        self._held: tuple[Entry | None, bytes | memoryview | None] | None = None
        self._sent_bytes = 0

    def become(self, user: User | None) -> None:
        """Be a user from now on, or nobody yet. ``rights`` are what its roles allow, as bits."""
        self.user = user
        self.rights = 0 if user is None or self.guest else user.rights
        self.on_user()

    @property
    def stranger(self) -> bool:
        """Whether the client has neither said who it is nor, where it need not, anything else."""
        return self.user is None or not self.last_command

    def be_guest(self) -> None:
        """Have no rights, because there is no room for more clients; only a peer may stay (`stays`)."""
        self.guest = True
        self.become(self.user)

    def stays(self, command: str, needed: int) -> bool:
        """Whether a command that this client has no right to makes it a peer, for which room is kept."""
        if not self.guest or self.user is None or command != PEER or needed & ~self.user.rights:
            return False
        self.guest = False
        self.become(self.user)
        return True

    def missing_right(self, needed: int) -> tuple[str, str]:
        """Sentence and code of the error for a command that needs more rights than this client has."""
        if self.user is None:
            return "Authentication required.", "NOAUTH"
        if self.guest:
            self.closing = True
            return "max number of clients reached", "ERR"
        role = role_of(needed & ~self.rights)
        return f"this user has no permissions to run it: that takes the role {role!r}", "NOPERM"

    def reply(self, encoded: bytes | memoryview) -> None:
        """Queue bytes that are already RESP. A memoryview is in use until `room` says that it was sent."""
        self.out.append(encoded)
        self.queued_bytes += len(encoded)

    def answer_later(self, work: Coroutine[Any, Any, object]) -> None:
        """Have ``work`` queue the reply of the command under way; no later command runs before it ends.

        When the connection closes meanwhile, ``work`` is cancelled.
        """
        assert self.later is None, "one command at a time"
        self.later = work

    async def finish(self) -> None:
        """Wait for the reply of a command that said it takes its time; for commands made of others."""
        while self.later is not None:
            work, self.later = self.later, None
            await work

    async def share(self) -> None:
        """Between two parts of a command: let others have their turn, but not within EXEC."""
        if not self.in_exec:
            await self.node.turns.share()

    def take_back(self) -> bytes:
        """What was queued since ``room(0)``: the reply of one of the commands that a command is made of."""
        taken = b"".join(self.out)
        self.out.clear()
        self.queued_bytes = 0
        return taken

    async def room(self, at_most_bytes: int) -> None:
        """Send, and wait until at most so many bytes, or the allowance, are unsent: for replies in pieces."""
        at_most_bytes = min(at_most_bytes, self.node.clients.unsent_bytes)
        self._room = asyncio.Event()
        try:
            self.push()
            while self.queued_bytes > at_most_bytes:
                self._room.clear()
                await self._room.wait()
        finally:
            self._room = None

    @property
    def replied_bytes(self) -> int:
        """All bytes of replies that were ever queued."""
        return self._sent_bytes + self.queued_bytes

    def reply_with(self, value: Reply) -> None:
        """Queue a nested reply in the client's version of RESP."""
        self.reply(replies.encode(value, self.resp3))

    def fail(self, sentence: str, code: str = "ERR") -> None:
        """Queue an error."""
        self.reply(replies.error(sentence, code))

    def reply_entry(self, entry: Entry | None) -> None:
        """Queue an entry's value as a bulk string, without copying it out of the arena."""
        if entry is None:
            self.reply(self.nil)
        elif entry.plain is not None:
            self.reply(replies.bulk(entry.plain))
        else:
            self._reply_value(entry, self.node.store.decoded(entry))

    def hold(self, entry: Entry | None) -> None:
        """Keep what `reply_held` will queue as it is, whatever becomes of its key meanwhile."""
        assert self._held is None, "one command at a time"
        self._held = entry, None if entry is None else self.node.store.decoded(entry)

    def reply_held(self) -> None:
        """Queue the value that is held, as `reply_entry` does."""
        assert self._held is not None, "something is held"
        (entry, value), self._held = self._held, None
        if entry is None or value is None:
            self.reply(self.nil)
        else:
            self._reply_value(entry, value)

    def let_go(self) -> None:
        """Hold nothing any more."""
        if self._held is not None:
            (entry, value), self._held = self._held, None
            if entry is not None and isinstance(value, memoryview):
                self.node.store.unpin(entry)

    def _reply_value(self, entry: Entry, value: bytes | memoryview) -> None:
        if isinstance(value, bytes):
            self.reply(replies.bulk(value))
            return
        head = b"$%d\r\n" % entry.length
        self.out += (head, value, replies.CRLF)
        self.queued_bytes += len(head) + entry.length + 2
        self._pins.append((self._sent_bytes + self.queued_bytes, entry))

    def reply_entries(self, entries: Sequence[Entry | None], head: tuple[bytes, ...]) -> None:
        """Queue values behind the lines of ``head``; small ones in a row are one buffer."""
        headers, nil, decoded = _BULK_HEADERS, self.nil[:-2], self.node.store.decoded
        small: list[bytes] = [*head]  # lines, each without its end
        for entry in entries:
            if entry is None:
                small.append(nil)
            elif entry.plain is not None:
                small += (headers[entry.length], entry.plain)
            elif isinstance(value := decoded(entry), bytes):
                small += (b"$%d" % len(value), value)
            else:
                small.append(b"$%d\r\n" % entry.length)
                self.reply_pinned(replies.CRLF.join(small), value, entry)
                small = [b""]
        small.append(b"")
        self.reply(replies.CRLF.join(small))

    def reply_pinned(self, head: bytes, value: bytes | memoryview, entry: Entry) -> None:
        """Queue ``head`` and a part of an entry that `Store.decoded` pinned; unpinned when it was sent."""
        self.out += (head, value)
        self.queued_bytes += len(head) + len(value)
        self._pins.append((self._sent_bytes + self.queued_bytes, entry))

    @property
    def held_bytes(self) -> int:
        """Memory of a transaction and of replies that are not sent, without what is pinned in the tier."""
        pinned_bytes = sum(entry.length for _, entry in self._pins)
        copied_bytes = max(self.queued_bytes - pinned_bytes, 0) + BUFFER_OVERHEAD_BYTES * len(self.out)
        return copied_bytes + self.transaction_bytes

    def sent(self, count: int) -> None:
        """``count`` bytes of the front of ``out`` were sent and their buffers are not in use any more."""
        self._sent_bytes += count
        self.queued_bytes -= count
        if self._room is not None:
            self._room.set()
        pins = self._pins
        while pins and pins[0][0] <= self._sent_bytes:
            self.node.store.unpin(pins.popleft()[1])

    def observe(self, access: Access, keys: Sequence[bytes], hits: Sequence[bool]) -> None:
        """Note an access for the trace, unless this client's engine reports its requests itself.

        Lists are the session's from then on.
        """
        if self.inference is None:
            return
        if len(keys) == 1 and self._observed:
            before, known, were, now_s = self._observed[-1]
            if before is access and now_s == self.now_s and len(known) < OBSERVED_KEYS:
                # Single keys that arrived together are told together, as the keys of one command are.
                known += keys
                were += hits
                return
        if len(self._observed) >= OBSERVED_MOST:
            self.report()
        own = (keys, hits) if isinstance(keys, list) and isinstance(hits, list) else (list(keys), list(hits))
        self._observed.append((access, *own, self.now_s))

    def report(self) -> None:
        """Tell the trace what was noted; done when the replies are on their way, not before."""
        if not self.in_exec:
            while self.report_one():
                pass

    def report_one(self) -> bool:
        """Tell the trace of the access that was noted first; whether there was one."""
        if not self._observed:
            return False
        access, keys, hits, now_s = self._observed.popleft()
        if self.inference is not None:
            self.inference.access(access, keys, hits, now_s)
        return True

    def refuse(self) -> None:
        """A command was answered with an error before it was run: EXEC will not run the others either."""
        if self.transaction is not None:
            self.transaction.wrong = True

    def end_transaction(self) -> None:
        """Forget what was queued since MULTI."""
        if self.transaction is not None:
            transaction, self.transaction, self.transaction_bytes = self.transaction, None, 0
            transaction.release(self.node.store)

    def leave_trace(self) -> None:
        """Infer nothing from this client: its requests are told otherwise."""
        self.in_exec = False
        self.report()
        if self.inference is not None:
            self.inference.end()
            self.inference = None

    def reset(self) -> None:
        """Back to how a connection begins (RESET)."""
        self.end_transaction()
        self.resp3 = False
        self.nil = replies.NIL2
        self.name = b""
        self.caller = UNAWARE
        self.evidence = Evidence()
        self.become(self.node.users.initial)

    def close(self) -> None:
        """Let go of everything the connection holds, and of the connection: what it has is free at once."""
        self.push = self.on_user = _not_connected
        self.out.clear()
        while self._pins:
            self.node.store.unpin(self._pins.popleft()[1])
        self.let_go()
        self.end_transaction()
        self.push = self.on_user = _not_connected  # or this and its connection would hold each other
        self.leave_trace()


def _not_connected() -> None:
    """A session without a socket sends nothing."""
