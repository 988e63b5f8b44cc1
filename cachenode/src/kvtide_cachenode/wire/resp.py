"""RESP requests, RESP2 and RESP3 alike: bytes in, events out, no I/O.

A request is an array of bulk strings, or an inline command (a line of words). The caller asks for `buffers`
to receive into, says how many bytes came (`received`) and takes events until there are none (`next_event`).

A bulk string of at least `LANDED_BYTES` is announced before its bytes are there: the caller answers the
`Announced` event with `land`, naming the place where the bytes shall arrive. A command that has such
arguments comes as `Landed`, its words apart from its places: nothing stands among the words for a place.

    START ──"*n"──► LENGTH ──"$n"──► ARGUMENT ──n bytes, CRLF──► LENGTH | command
      │               └──"$n", n large──► ANNOUNCED ──land()──► VALUE ──n bytes, CRLF──► LENGTH | command
      └──a line of words──► command                    any state ──nonsense──► BROKEN
"""

import shlex
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Final

from kvtide_cachenode.wire.events import Announced, Broken, Command, Event, Grow, Landed, Place, Room, grown
from kvtide_cachenode.wire.headers import (
    COUNT_OF_HEADER,
    HEADER_OF_LENGTH,
    lacks_only_its_end,
    number_in,
)

LANDED_BYTES: Final = 16 * 1024
MAX_VALUE_BYTES: Final = 512 * 1024 * 1024  # redis' default proto-max-bulk-len
MAX_ARGUMENTS: Final = 1024 * 1024  # as redis
MAX_INLINE_BYTES: Final = 4 * 1024
# All small arguments of one command together; values that land do not count.
MAX_COMMAND_BYTES: Final = 16 * 1024 * 1024
MAX_HEADER_BYTES: Final = 32
# Receiving starts small, so that of a large value at most this much is copied from here to its place,
# and grows while pipelined commands fill the buffer.
SMALL_RECEIVE_BYTES: Final = 16 * 1024
BUFFER_BYTES: Final = 64 * 1024
SPLIT_HEAD_BYTES: Final = 1024
# One receive into a landed value; bounds how long one connection keeps the loop.
VALUE_RECEIVE_BYTES: Final = 1024 * 1024

# Before login a command has so many words of so many bytes altogether, none of which lands; as redis.
STRANGER_ARGUMENTS: Final = 10
STRANGER_BYTES: Final = LANDED_BYTES - 1
# And so little is taken in at once: what many short commands are split into is several times as large.
STRANGER_RECEIVE_BYTES: Final = 1024
# What a parsed argument takes beside its bytes (33, up to 15 of rounding, 9 in the list), and what commands
# split ahead take of what they came as.
ARGUMENT_OVERHEAD_BYTES: Final = 56
READY_FACTOR: Final = 8
_dropped = memoryview(bytearray(VALUE_RECEIVE_BYTES))  # where unwanted bytes go; nobody reads it

# Connections receive one after the other: they share one buffer, and each keeps what it could not use yet.
_spare: list[memoryview] = []
_AWAY: Final = bytearray()

# Plain integers: an Enum's hash and attributes cost a Python call each, on every argument.
_START, _LENGTH, _ARGUMENT, _ANNOUNCED, _VALUE, _BROKEN = range(6)


class RequestParser:
    """One connection's requests. Holds at most `BUFFER_BYTES` unparsed and `MAX_COMMAND_BYTES` parsed.

    Between turns (`put_aside`) it has no buffer of its own.
    """

    def __init__(self) -> None:
        self._buffer = _AWAY
        self._view = memoryview(_AWAY)
        self._kept = b""  # what is unparsed while the buffer is away
        self._most_arguments = MAX_ARGUMENTS
        self._most_bulk_bytes = MAX_VALUE_BYTES
        self._most_bytes = MAX_COMMAND_BYTES
        self._ready_bytes = 0  # that the commands in `_ready` came as
        self._start = 0
        self._end = 0
        self._receive_bytes = SMALL_RECEIVE_BYTES
        self._most_receive_bytes = BUFFER_BYTES
        self._deferred = False  # whether a command is left whole in the buffer for its rest to come
        self._was_deferred = False
        self._plain = True  # whether the last array was all small arguments, as the next one will be
        self._ready: deque[Command] = deque()
        self._state = _START
        self._words: list[bytes] = []
        self._places: dict[int, Place] = {}
        self._argument_count = 0
        self._argument_bytes = 0
        self._length = 0
        self._memory: memoryview | None = None
        self._grow: Grow = grown
        self._landed = 0

    @property
    def in_request(self) -> bool:
        """Whether a request has begun that is not complete."""
        return self._state != _START or self._end > self._start

    @property
    def has_more(self) -> bool:
        """Whether something has arrived that no event tells of yet."""
        return bool(self._ready) or self._end > self._start

    @property
    def arriving(self) -> Mapping[int, Place]:
        """The places of the command that is not complete; whoever gave them lets go of them at the end."""
        return self._places

    @property
    def held_bytes(self) -> int:
        """About how much memory is taken by what has arrived: no command yet, or the one that was taken last.

        Commands of small arguments that arrived whole count no more once they are taken.
        """
        words = self._words
        parsed = self._argument_bytes + ARGUMENT_OVERHEAD_BYTES * len(words) if words else 0
        texts = sum(place.held_bytes for place in self._places.values()) if self._places else 0
        unparsed = self._end - self._start
        return parsed + texts + unparsed + (READY_FACTOR * self._ready_bytes if self._ready else 0)

    def restrict(self, stranger: bool) -> None:
        """Take only what somebody needs to say who it is, or everything."""
        self._most_arguments = STRANGER_ARGUMENTS if stranger else MAX_ARGUMENTS
        self._most_bulk_bytes = STRANGER_BYTES if stranger else MAX_VALUE_BYTES
        self._most_bytes = STRANGER_BYTES if stranger else MAX_COMMAND_BYTES
        self._most_receive_bytes = STRANGER_RECEIVE_BYTES if stranger else BUFFER_BYTES

    def put_aside(self) -> None:
        """Give the buffer to others until more is to be parsed."""
        if self._buffer is not _AWAY:
            self._kept = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, len(self._kept)
            _spare.append(self._view)
            self._buffer = _AWAY

    def _take_buffer(self) -> None:
        self._view = _spare.pop() if _spare else memoryview(bytearray(BUFFER_BYTES))
        self._view[: self._end] = self._kept
        self._kept = b""
        self._buffer = self._view.obj  # type: ignore[assignment]  # they are made of bytearrays

    def buffers(self, at_most_bytes: int = BUFFER_BYTES) -> list[memoryview]:
        """Where the next bytes go, in this order, of commands at most so many; none: nowhere yet.

        Not to be called before all events are taken.
        """
        if self._state != _VALUE or self._landed == self._length:
            self._make_space()
            receive_bytes = min(self._receive_bytes, self._most_receive_bytes, at_most_bytes)
            return [self._view[self._end : self._end + receive_bytes]]
        missing = self._length - self._landed
        room = self._grow(self._landed + min(missing, VALUE_RECEIVE_BYTES))
        if room is Room.LATER:
            return []
        if room is Room.NEVER:
            self._memory, self._grow = None, grown
        if missing > VALUE_RECEIVE_BYTES:
            return [self._target(VALUE_RECEIVE_BYTES)]
        # The end of the value and what follows it come in one call.
        self._make_space()
        beyond = min(SMALL_RECEIVE_BYTES, at_most_bytes)
        return [self._target(missing), self._view[self._end : self._end + beyond]]

    def received(self, count: int) -> None:
        """``count`` bytes were written into `buffers`."""
        if self._state == _VALUE:
            landed = min(count, self._length - self._landed)
            self._landed += landed
            count -= landed
        self._end += count
        if self._deferred:
            self._deferred, self._was_deferred = False, True

    def next_event(self) -> Event | None:
        """The next event, None when more bytes are needed."""
        if self._ready:
            return self._ready.popleft()
        if self._buffer is _AWAY:
            self._take_buffer()
        if self._state == _START and self._words:
            self._words = []  # of the command before: it has run
        if self._state == _START and self._end > self._start:
            if not self._plain:
                announced = self._split_head()
                if announced is not None:
                    return announced
            else:
                if not self._deferred:
                    self._split_commands()
                if self._ready:
                    return self._ready.popleft()
                if self._deferred:
                    return None
        while True:
            state, start = self._state, self._start
            event = _STEPS[state](self)
            if event is not None or (self._state == state and self._start == start):
                return event

    def ahead(self, count: int) -> list[list[bytes]]:
        """Up to ``count`` of the commands that the next events are, as far as they are known."""
        return list(islice(self._ready, count))

    def land(self, place: Place) -> None:
        """Answer an `Announced` event: its bytes go to ``place``, for as long as it grows."""
        assert self._state == _ANNOUNCED, "land answers an Announced event"
        memory = place.memory
        assert memory is None or len(memory) == self._length, "the memory has the value's length"
        self._places[len(self._words) + len(self._places)] = place
        self._memory = memory
        self._grow = grown if memory is None else place.grow
        self._state = _VALUE
        self._plain = False
        self._receive_bytes = SMALL_RECEIVE_BYTES
        here = min(self._length, self._end - self._start)
        if memory is not None:
            memory[:here] = self._view[self._start : self._start + here]
        self._start += here
        self._landed = here

    def _target(self, count: int) -> memoryview:
        if self._memory is None:
            return _dropped[:count]
        return self._memory[self._landed : self._landed + count]

    def _make_space(self) -> None:
        if self._buffer is _AWAY:
            self._take_buffer()
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and BUFFER_BYTES - self._end < self._receive_bytes:
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept

    def _split_commands(self) -> None:
        """Take all complete commands of small arguments out of the buffer, at a few operations each.

        Splitting at CRLF yields header, argument, header, argument …; that an argument's header states its
        length proves that no CRLF inside an argument was taken for an end. Whatever is not of this plain
        shape is left to the states; of what is only incomplete, the rest is waited for once.
        """
        was_deferred, self._was_deferred = self._was_deferred, False
        if self._buffer[self._start] != 42:  # "*"
            return
        parts = bytes(self._view[self._start : self._end]).split(b"\r\n")
        last = len(parts) - 1  # what follows the last CRLF is not a whole part
        at = 0
        while at < last:
            count = COUNT_OF_HEADER.get(parts[at])
            if count is None or count > self._most_arguments:
                break
            stop = at + 1 + 2 * count
            if stop > last:
                # Once: splitting the same bytes again and again would cost far more than sending them.
                rest = parts[at:]
                self._deferred = (
                    (at > 0 or not was_deferred)
                    and sum(map(len, rest)) <= BUFFER_BYTES // 4
                    and lacks_only_its_end(rest)
                )
                break
            arguments = parts[at + 2 : stop : 2]
            try:
                headers = [HEADER_OF_LENGTH[len(argument)] for argument in arguments]
            except IndexError:
                break
            if headers != parts[at + 1 : stop : 2]:
                break
            self._ready.append(arguments)
            at = stop
        rest = parts[at:]
        start = self._end - sum(map(len, rest)) - 2 * (len(rest) - 1)
        self._ready_bytes, self._start = start - self._start, start
        if self._end >= SMALL_RECEIVE_BYTES:
            self._receive_bytes = BUFFER_BYTES

    def _split_head(self) -> Announced | None:
        """Take ``SET key`` and the announcement of its value out of the buffer in a few operations.

        Whatever is not of the form name, key, large value is left to the states.
        """
        head = bytes(self._view[self._start : min(self._end, self._start + SPLIT_HEAD_BYTES)])
        parts = head.split(b"\r\n", 6)
        if len(parts) < 7 or parts[0] != b"*3":
            return None
        _, name_header, name, key_header, key, header, rest = parts
        if name_header != b"$%d" % len(name) or key_header != b"$%d" % len(key) or header[:1] != b"$":
            return None
        length = number_in(header)
        if length is None or not LANDED_BYTES <= length <= self._most_bulk_bytes:
            return None
        self._start += len(head) - len(rest)
        self._words = [name, key]
        self._argument_count = 3
        self._argument_bytes = len(name) + len(key)
        self._length = length
        self._state = _ANNOUNCED
        return Announced(self._words, self._places, length)

    def _line(self, limit: int, too_long: str) -> bytes | Broken | None:
        at = self._buffer.find(b"\n", self._start, self._end)
        if at < 0:
            return self._break(too_long) if self._end - self._start > limit else None
        line = bytes(self._view[self._start : at])
        if len(line) > limit:
            return self._break(too_long)
        self._start = at + 1
        return line[:-1] if line.endswith(b"\r") else line

    def _break(self, reason: str) -> Broken:
        self._state = _BROKEN
        self._start = self._end = 0
        return Broken(reason)

    def _at_start(self) -> Event | None:
        if self._start == self._end:
            return None
        if self._buffer[self._start] != 42:
            return self._inline()
        line = self._line(MAX_HEADER_BYTES, "too big mbulk count string")
        if line is None or isinstance(line, Broken):
            return line
        count = number_in(line)
        if count is None or count > MAX_ARGUMENTS:
            return self._break("invalid multibulk length")
        if count > self._most_arguments:
            return self._break("unauthenticated multibulk length")
        if count <= 0:  # redis skips an empty request
            return None
        self._words = []
        self._plain = True
        self._argument_count = count
        self._argument_bytes = 0
        self._state = _LENGTH
        return None

    def _inline(self) -> Event | None:
        line = self._line(MAX_INLINE_BYTES, "too big inline request")
        if line is None or isinstance(line, Broken):
            return line
        if b'"' not in line and b"'" not in line:
            return line.split() or None
        try:
            words = shlex.split(line.decode("latin-1"))
        except ValueError:
            return self._break("unbalanced quotes in request")
        return [word.encode("latin-1") for word in words]

    def _at_length(self) -> Event | None:
        line = self._line(MAX_HEADER_BYTES, "too big bulk count string")
        if line is None or isinstance(line, Broken):
            return line
        if line[:1] != b"$":
            return self._break(f"expected '$', got '{chr(line[0]) if line else ' '}'")
        length = number_in(line)
        if length is None or not 0 <= length <= MAX_VALUE_BYTES:
            return self._break("invalid bulk length")
        if length > self._most_bulk_bytes:
            return self._break("unauthenticated bulk length")
        self._length = length
        if length >= LANDED_BYTES:
            self._state = _ANNOUNCED
            return Announced(self._words, self._places, length)
        self._argument_bytes += length
        if self._argument_bytes > self._most_bytes:
            return self._break("too big request")
        self._state = _ARGUMENT
        return None

    def _at_argument(self) -> Event | None:
        end = self._start + self._length
        if self._end < end + 2:
            return None
        self._words.append(bytes(self._view[self._start : end]))
        self._start = end
        return self._argument_complete()

    def _at_value(self) -> Event | None:
        if self._landed < self._length or self._end < self._start + 2:
            return None
        self._memory, self._grow = None, grown
        return self._argument_complete()

    def _argument_complete(self) -> Event | None:
        if self._buffer[self._start : self._start + 2] != b"\r\n":
            return self._break("expected CRLF after a bulk string")
        self._start += 2
        if len(self._words) + len(self._places) < self._argument_count:
            self._state = _LENGTH
            return None
        self._state = _START
        if not self._places:
            return self._words
        landed = Landed(self._words, self._places)
        self._places = {}
        return landed

    def _at_rest(self) -> Event | None:
        return None


# In the order of the states.
_STEPS = (
    RequestParser._at_start,
    RequestParser._at_length,
    RequestParser._at_argument,
    RequestParser._at_rest,
    RequestParser._at_value,
    RequestParser._at_rest,
)
