"""One client's conversation: what it said of itself, replies not sent yet, values on their way in."""

from collections import deque
from collections.abc import Sequence

from kvtide_cachenode.inference import Access, RequestInference
from kvtide_cachenode.node import Node
from kvtide_cachenode.store import CapacityError, Entry, Reservation
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.replies import Reply

# Large arguments that are no values: a trace line, at most. Anything larger is dropped with an error.
MAX_ARGUMENT_BYTES = 2 * 1024 * 1024


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
        self.authenticated = node.password is None
        self.closing = False
        self.now_s = 0.0
        self.connected_s = node.uptime_s()
        self.last_command = b""
        self.out: list[bytes | memoryview] = []
        self.queued_bytes = 0
        self.landed: dict[int, Reservation | bytearray] = {}
        self.refusal: bytes | None = None
        self.inference: RequestInference | None = RequestInference(node.parents, node.infer)
        self._pins: deque[tuple[int, Entry]] = deque()  # (all bytes queued when its last byte was, entry)
        self._sent_bytes = 0

    def reply(self, encoded: bytes) -> None:
        """Queue bytes that are already RESP."""
        self.out.append(encoded)
        self.queued_bytes += len(encoded)

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

    def sent(self, count: int) -> None:
        """``count`` bytes of the front of ``out`` were sent and their buffers are not in use any more."""
        self._sent_bytes += count
        self.queued_bytes -= count
        pins = self._pins
        while pins and pins[0][0] <= self._sent_bytes:
            self.node.store.unpin(pins.popleft()[1])

    def land(self, arguments: list[bytes], length: int) -> memoryview | None:
        """Where a large argument shall arrive: the arena for a value, None for what is refused."""
        word = arguments[0].upper() if arguments else b""
        index = len(arguments)
        if not self.authenticated:
            self.refusal = replies.error("Authentication required.", "NOAUTH")
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
        """Tell the trace, unless this client's engine reports its requests itself."""
        if self.inference is not None:
            self.inference.access(access, keys, hits, self.now_s)

    def reset(self) -> None:
        """Back to how a connection begins (RESET)."""
        self.resp3 = False
        self.nil = replies.NIL2
        self.name = b""
        self.authenticated = self.node.password is None

    def close(self) -> None:
        """Let go of everything the connection holds."""
        self.out.clear()
        while self._pins:
            self.node.store.unpin(self._pins.popleft()[1])
        self.drop_landed()
        if self.inference is not None:
            self.inference.end()
