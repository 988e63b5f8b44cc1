"""One client's conversation: what it said of itself, replies not sent yet, values on their way in."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from kvtide_cachenode.cluster.awareness import Evidence
from kvtide_cachenode.cluster.redirect import UNAWARE
from kvtide_cachenode.inference import Access
from kvtide_cachenode.node import Node
from kvtide_cachenode.store import CapacityError, Entry, Reservation
from kvtide_cachenode.store.store import INLINE_BYTES
from kvtide_cachenode.trace_client import Client
from kvtide_cachenode.users import WRITE, User, role_of
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.replies import Reply

# Large arguments that are no values: a trace line, at most. Anything larger is dropped with an error.
MAX_ARGUMENT_BYTES = 2 * 1024 * 1024
# First lines, without their ends, of the bulk strings that values in the index are.
_BULK_HEADERS = [b"$%d" % length for length in range(INLINE_BYTES + 1)]


# Large arguments of a command by their number.
Landed = dict[int, Reservation | bytearray]


class ReplyCutError(Exception):
    """A reply whose length was announced cannot be finished: all that is left is to close the connection."""


class Session:
    """The state of one connection, without its socket.

    ``out`` is what must be sent, in order; entries sent from the arena are pinned until `sent` has counted
    past them. ``landed`` maps argument numbers of the command under way to what they arrived in.
    """

    def __init__(self, node: Node, session_id: int, address: str) -> None:
        self.node = node
        self.id = session_id
        self.address = address
        self.name = b""
        self.library: dict[str, bytes] = {}
        self.resp3 = False
        self.nil = replies.NIL2
        self.become(node.users.initial)
        self.closing = False
        self.now_s = 0.0
        self.connected_s = node.uptime_s()
        self.last_command = b""
        self.out: list[bytes | memoryview] = []
        self.queued_bytes = 0
        self.landed: Landed = {}
        self.later: Coroutine[Any, Any, object] | None = None
        self.push: Callable[[], None] = _not_connected
        self._room: asyncio.Event | None = None
        self.refusal: bytes | None = None
        self.caller = UNAWARE
        self.evidence: Evidence | None = Evidence()
        self.inference: Client | None = Client(node.inference, address.rpartition(":")[0])
        self._observed: list[tuple[Access, list[bytes], list[bool], float]] = []
        self._pins: deque[tuple[int, Entry]] = deque()  # (all bytes queued when its last byte was, entry)
        self._sent_bytes = 0

    def become(self, user: User | None) -> None:
        """Be a user from now on, or nobody yet. ``rights`` are what its roles allow, as bits."""
        self.user = user
        self.rights = 0 if user is None else user.rights

    def missing_right(self, needed: int) -> tuple[str, str]:
        """Sentence and code of the error for a command that needs more rights than this client has."""
        if self.user is None:
            return "Authentication required.", "NOAUTH"
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

    async def room(self, at_most_bytes: int) -> None:
        """Send, and wait until at most so many bytes are unsent: for replies in pieces."""
        self._room = asyncio.Event()
        try:
            self.push()
            while self.queued_bytes > at_most_bytes:
                self._room.clear()
                await self._room.wait()
        finally:
            self._room = None

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
        elif entry.inline is not None:
            self.reply(replies.bulk(entry.inline))
        else:
            head = b"$%d\r\n" % entry.length
            self.out += (head, self.node.store.pin(entry), replies.CRLF)
            self.queued_bytes += len(head) + entry.length + 2
            self._pins.append((self._sent_bytes + self.queued_bytes, entry))

    def reply_entries(self, entries: Sequence[Entry | None]) -> None:
        """Queue an array of values; small ones in a row are one buffer, large ones lie between two."""
        headers, nil = _BULK_HEADERS, self.nil[:-2]
        small: list[bytes] = [b"*%d" % len(entries)]  # lines, each without its end
        for entry in entries:
            if entry is None:
                small.append(nil)
            elif entry.inline is not None:
                small += (headers[entry.length], entry.inline)
            else:
                small.append(b"$%d\r\n" % entry.length)
                self.reply_pinned(replies.CRLF.join(small), self.node.store.pin(entry), entry)
                small = [b""]
        small.append(b"")
        self.reply(replies.CRLF.join(small))

    def reply_pinned(self, head: bytes, value: memoryview, entry: Entry) -> None:
        """Queue ``head`` and a part of an entry that `Store.pin` gave; it is unpinned when it was sent."""
        self.out += (head, value)
        self.queued_bytes += len(head) + len(value)
        self._pins.append((self._sent_bytes + self.queued_bytes, entry))

    def sent(self, count: int) -> None:
        """``count`` bytes of the front of ``out`` were sent and their buffers are not in use any more."""
        self._sent_bytes += count
        self.queued_bytes -= count
        if self._room is not None:
            self._room.set()
        pins = self._pins
        while pins and pins[0][0] <= self._sent_bytes:
            self.node.store.unpin(pins.popleft()[1])

    def land(self, arguments: list[bytes], length: int) -> memoryview | None:
        """Where a large argument shall arrive: the arena for a value, None for what is refused."""
        word = arguments[0].upper() if arguments else b""
        index = len(arguments)
        if not self.rights & WRITE:
            self.refusal = replies.error(*self.missing_right(WRITE))
            return None
        is_value = (word in (b"SET", b"SETNX") and index == 2) or (
            word == b"MSET" and index >= 2 and index % 2 == 0
        )
        if is_value:
            try:
                reservation = self.node.store.reserve(arguments[index - 1], length)
            except CapacityError as error:
                self.refusal = self.refusal or replies.error(str(error), "OOM")
                return None
            self.landed[index] = reservation
            return reservation.memory
        held = sum(len(landed) for landed in self.landed.values() if isinstance(landed, bytearray))
        if held + length > MAX_ARGUMENT_BYTES:
            self.refusal = self.refusal or replies.error(
                f"argument {index} of {length} bytes is too large: a key has less than 16 KiB, "
                f"another argument at most {MAX_ARGUMENT_BYTES} bytes"
            )
            return None
        self.landed[index] = text = bytearray(length)
        return memoryview(text)

    def drop_landed(self) -> None:
        """Give up what arrived for a command that did not take it."""
        for landed in self.landed.values():
            if isinstance(landed, Reservation):
                self.node.store.abort(landed)
        self.landed.clear()

    def observe(self, access: Access, keys: Sequence[bytes], hits: Sequence[bool]) -> None:
        """Note an access for the trace, unless this client's engine reports its requests itself.

        Lists are the session's from then on.
        """
        if self.inference is None:
            return
        if len(keys) == 1 and self._observed:
            before, known, were, now_s = self._observed[-1]
            if before is access and now_s == self.now_s:
                # Single keys that arrived together are told together, as the keys of one command are.
                known += keys
                were += hits
                return
        own = (keys, hits) if isinstance(keys, list) and isinstance(hits, list) else (list(keys), list(hits))
        self._observed.append((access, *own, self.now_s))

    def report(self) -> None:
        """Tell the trace what was noted; done when the replies are on their way, not before."""
        if self._observed:
            observed, self._observed = self._observed, []
            if self.inference is not None:
                for access, keys, hits, now_s in observed:
                    self.inference.access(access, keys, hits, now_s)

    def leave_trace(self) -> None:
        """Infer nothing from this client: its requests are told otherwise."""
        self.report()
        if self.inference is not None:
            self.inference.end()
            self.inference = None

    def reset(self) -> None:
        """Back to how a connection begins (RESET)."""
        self.resp3 = False
        self.nil = replies.NIL2
        self.name = b""
        self.caller = UNAWARE
        self.evidence = Evidence()
        self.become(self.node.users.initial)

    def close(self) -> None:
        """Let go of everything the connection holds."""
        self.out.clear()
        while self._pins:
            self.node.store.unpin(self._pins.popleft()[1])
        self.drop_landed()
        self.leave_trace()


def _not_connected() -> None:
    """A session without a socket sends nothing."""
