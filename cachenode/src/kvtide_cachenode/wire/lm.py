"""LMCache's `lm://` protocol (0.5.6): bytes to requests and back, without I/O.

A request is a header of 186 bytes and, for PUT, `length` bytes of payload. A reply is a header of 36 bytes
and, for a GET that hits, the payload; PUT and LIST have no reply. There is no error reply, so a stream that
makes no sense is `Broken` and the caller closes it.

The caller asks for `buffers` to receive into, says how many bytes came (`received`) and takes events until
there are none (`next_event`). A PUT is announced before its payload is there: the caller answers the
`Value` event with `land`, naming the memory of the stored value, or None to have the payload dropped.

    HEADER ──186 bytes of GET, EXIST, HEALTH, LIST──► HEADER
       └──186 bytes of PUT──► ANNOUNCED ──land()──► VALUE ──payload──► HEADER      any ──nonsense──► BROKEN

What is stored is one value under one key, as any other entry: the key is the client's with `KEY_PREFIX`
before it, the value a `METADATA_BYTES` long description (mark, fmt, dtype, location, four dimensions),
then the payload. So eviction, disk records, slot moves and forwarding to another node know nothing of
LMCache, and a RESP client that GETs `lm:<key>` reads description and payload. The prefix keeps these entries
apart from those of LMCache's `resp://`, which stores the bare payload under the same key string.
"""

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kvtide_cachenode.wire.events import Grow, Room, grown

KEY_BYTES: Final = 150
KEY_PREFIX: Final = b"lm:"
MAX_VALUE_BYTES: Final = 512 * 1024 * 1024  # as in RESP; a longer PUT is nonsense and ends the connection
# One receive into a landed value; bounds how long one connection keeps the loop.
VALUE_RECEIVE_BYTES: Final = 1024 * 1024
DROP_RECEIVE_BYTES: Final = 64 * 1024

_REQUEST = struct.Struct(f"<9i{KEY_BYTES}s")  # command length fmt dtype location shape0-3 key
_REPLY = struct.Struct("<9i")  # code length fmt dtype shape0-3 location
_METADATA = struct.Struct("<4s7i")  # mark fmt dtype location shape0-3
_MARK: Final = b"KVL1"

REQUEST_BYTES: Final = _REQUEST.size
METADATA_BYTES: Final = _METADATA.size

_PUT, _GET, _EXIST, _LIST, _HEALTH = range(1, 6)
_SUCCESS: Final = 200
_FAIL: Final = 400
# lmcache_server describes nothing as KV_2LTD (1) in float16 (2).
YES: Final = _REPLY.pack(_SUCCESS, 0, 1, 2, 0, 0, 0, 0, 0)
NO: Final = _REPLY.pack(_FAIL, 0, 1, 2, 0, 0, 0, 0, 0)

_dropped = memoryview(bytearray(DROP_RECEIVE_BYTES))  # where unwanted bytes go; nobody reads it


@dataclass(frozen=True, slots=True)
class Value:
    """A PUT's payload is about to arrive; stored with its description it takes ``length`` bytes."""

    key: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Put:
    """The value announced for ``key`` is complete. No reply."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """The value of ``key`` is wanted: reply `found` and the payload, or `NO`."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Exist:
    """Is ``key`` stored? Reply `YES` or `NO`."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Health:
    """Is the server alive? Reply `YES`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream is not `lm://`; ``reason`` is one sentence. No event follows."""

    reason: str


Event = Value | Put | Get | Exist | Health | Broken


def found(value: memoryview | bytes, length: int) -> bytes | None:
    """The reply header for a stored value of ``length`` bytes, of which ``value`` is at least the beginning.

    The payload to send after it is the value from `METADATA_BYTES` on. None when the value was not stored
    through `lm://`: the client gets `NO`.
    """
    if len(value) < METADATA_BYTES:
        return None
    mark, fmt, dtype, location, *shape = _METADATA.unpack_from(value)
    if mark != _MARK:
        return None
    return _REPLY.pack(_SUCCESS, length - METADATA_BYTES, fmt, dtype, *shape, location)


class _State(Enum):
    HEADER = auto()
    ANNOUNCED = auto()
    VALUE = auto()
    BROKEN = auto()


class RequestParser:
    """One connection's requests. Holds one header and nothing else: payloads go where the caller says."""

    def __init__(self) -> None:
        self._header = memoryview(bytearray(REQUEST_BYTES))
        self._header_bytes = 0
        self._state = _State.HEADER
        self._key = b""
        self._length = 0  # of the payload
        self._landed = 0
        self._memory: memoryview | None = None
        self._grow: Grow = grown

    @property
    def in_request(self) -> bool:
        """Whether a request has begun that is not complete."""
        return self._state is not _State.HEADER or self._header_bytes > 0

    @property
    def held_bytes(self) -> int:
        """What has arrived and was not taken, beside the one header."""
        return 0

    def put_aside(self) -> None:
        """There is no buffer to give to others."""

    def buffers(self, at_most_bytes: int = 0) -> list[memoryview]:  # noqa: ARG002 - the protocol's signature
        """Where the next bytes go, in this order. Not to be called before all events are taken."""
        assert self._state in (_State.HEADER, _State.VALUE), "a broken or unanswered stream receives nothing"
        header = self._header[self._header_bytes :]
        if self._state is _State.HEADER:
            return [header]
        missing = self._length - self._landed
        room = self._grow(METADATA_BYTES + self._landed + min(missing, VALUE_RECEIVE_BYTES))
        if room is Room.LATER:
            return []
        if room is Room.NEVER:
            self._memory, self._grow = None, grown
        if self._memory is None:
            target = _dropped[:missing]
        else:
            target = self._memory[self._landed : self._landed + min(missing, VALUE_RECEIVE_BYTES)]
        # The end of the payload and the header that follows it come in one call.
        return [target] if len(target) < missing else [target, header]

    def received(self, count: int) -> None:
        """``count`` bytes were written into `buffers`."""
        if self._state is _State.VALUE:
            landed = min(count, self._length - self._landed)
            self._landed += landed
            count -= landed
        self._header_bytes += count
        assert self._header_bytes <= REQUEST_BYTES, "no more was received than there was room for"

    def next_event(self) -> Event | None:
        """The next event, None when more bytes are needed."""
        if self._state is _State.VALUE and self._landed == self._length:
            self._state = _State.HEADER
            self._memory, self._grow = None, grown
            return Put(self._key)
        if self._state is _State.HEADER and self._header_bytes == REQUEST_BYTES:
            self._header_bytes = 0
            return self._request()
        return None

    def land(self, memory: memoryview | None, grow: Grow | None = None) -> None:
        """Answer a `Value` event: the description is written into ``memory``, the payload follows it there.

        None drops the payload; `Put` comes all the same, so that the caller knows where it ends. ``grow`` is
        asked before more of ``memory`` is used than the description.
        """
        assert self._state is _State.ANNOUNCED, "land answers a Value event"
        self._state = _State.VALUE
        self._landed = 0
        self._grow = grown if memory is None or grow is None else grow
        if memory is None:
            return
        assert len(memory) == METADATA_BYTES + self._length, "the memory has the value's length"
        _, _, fmt, dtype, location, *shape, _ = _REQUEST.unpack(self._header)
        _METADATA.pack_into(memory, 0, _MARK, fmt, dtype, location, *shape)
        self._memory = memory[METADATA_BYTES:]

    def _request(self) -> Event | None:
        command, length, *_, padded_key = _REQUEST.unpack(self._header)
        if command == _HEALTH:
            return Health()
        if command == _LIST:
            return None  # lmcache_server does not answer it either, and no client sends it
        if command not in (_PUT, _GET, _EXIST):
            return self._break(f"command {command} is none of PUT 1, GET 2, EXIST 3, LIST 4 and HEALTH 5")
        key = padded_key.rstrip(b" ")
        try:
            key.decode()
        except UnicodeDecodeError:
            return self._break("the key is not UTF-8")
        if not key:
            return self._break("the key is empty")
        self._key = KEY_PREFIX + key
        if command == _GET:
            return Get(self._key)
        if command == _EXIST:
            return Exist(self._key)
        if not 0 <= length <= MAX_VALUE_BYTES:
            return self._break(f"a payload of {length} bytes is not between 0 and {MAX_VALUE_BYTES}")
        self._length = length
        self._state = _State.ANNOUNCED
        return Value(self._key, METADATA_BYTES + length)

    def _break(self, reason: str) -> Broken:
        self._state = _State.BROKEN
        return Broken(reason)
