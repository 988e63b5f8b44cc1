"""The `lm://` parser: known bytes of LMCache 0.5.6, any split of the stream, any garbage."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvtide_cachenode.wire import lm

# Recorded from LMCache 0.5.6: ClientMetaMessage(...).serialize() and ServerMetaMessage(...).serialize() for
# the key meta-llama/Llama-3.1-8B-Instruct@2@1@deadbeefcafe@bfloat16.
KEY_HEX = (
    "6d6574612d6c6c616d612f4c6c616d612d332e312d38422d496e7374727563744032403140646561646265656663616665"
    "4062666c6f61743136" + "20" * 92
)
PUT_1_MIB = bytes.fromhex(
    "010000000000100001000000030000000000000002000000200000000800000000040000" + KEY_HEX
)
GET = bytes.fromhex("020000000000000001000000020000000000000000000000000000000000000000000000" + KEY_HEX)
EXIST = bytes.fromhex("030000000000000001000000020000000000000000000000000000000000000000000000" + KEY_HEX)
HEALTH = bytes.fromhex("050000000000000001000000020000000000000000000000000000000000000000000000" + KEY_HEX)
REPLY_HIT = bytes.fromhex("c80000000000100001000000030000000200000020000000080000000004000000000000")
REPLY_MISS = bytes.fromhex("900100000000000001000000020000000000000000000000000000000000000000000000")
STORED_KEY = b"lm:meta-llama/Llama-3.1-8B-Instruct@2@1@deadbeefcafe@bfloat16"


def request(command, key=b"m@1@0@ab@half", length=0, description=(1, 2, 0, 0, 0, 0, 0)):
    return struct.pack("<9i150s", command, length, *description, key.ljust(150))


def play(stream, sizes, accept=lambda _: True):
    """Feed ``stream`` in pieces of ``sizes`` (cycled); all events but Value, and what was stored."""
    parser, events, stored, memory, offset, turn = lm.RequestParser(), [], {}, None, 0, 0
    while True:
        while (event := parser.next_event()) is not None:
            match event:
                case lm.Value():
                    memory = bytearray(event.length) if accept(event) else None
                    parser.land(None if memory is None else memoryview(memory))
                    continue
                case lm.Put() if memory is not None:
                    stored[event.key] = bytes(memory)
                case lm.Broken():
                    assert parser.next_event() is None
                    return [*events, event], stored, parser
            events.append(event)
        if offset == len(stream):
            return events, stored, parser
        buffers = parser.buffers()
        room = sum(map(len, buffers))
        assert 0 < room <= lm.VALUE_RECEIVE_BYTES + lm.REQUEST_BYTES
        piece = stream[offset : offset + min(sizes[turn % len(sizes)], room)]
        offset, turn, rest = offset + len(piece), turn + 1, piece
        for buffer in buffers:
            here = min(len(buffer), len(rest))
            buffer[:here], rest = rest[:here], rest[here:]
        parser.received(len(piece))


def test_the_clients_own_bytes_are_understood_and_answered_as_its_server_answers():
    payload = bytes(range(256)) * 4096
    events, stored, _ = play(PUT_1_MIB + payload + EXIST + GET + HEALTH, [1 << 20])
    assert events == [lm.Put(STORED_KEY), lm.Exist(STORED_KEY), lm.Get(STORED_KEY), lm.Health()]
    value = stored[STORED_KEY]
    assert lm.found(value[: lm.METADATA_BYTES], len(value)) == REPLY_HIT
    assert value[lm.METADATA_BYTES :] == payload
    assert lm.NO == REPLY_MISS
    assert struct.unpack("<9i", lm.YES) == (200, 0, 1, 2, 0, 0, 0, 0, 0)


def test_fmt_dtype_shape_and_location_come_back_in_the_replys_order():
    stream = request(1, length=3, description=(6, 7, 2, 11, 12, 13, 14)) + b"abc"
    _, stored, _ = play(stream, [500])
    (value,) = stored.values()
    reply = lm.found(memoryview(value), len(value))
    assert struct.unpack("<9i", reply) == (200, 3, 6, 7, 11, 12, 13, 14, 2)


@pytest.mark.parametrize("value", [b"", b"KVL1", b"x" * 31, b"x" * 4096])
def test_what_was_not_stored_through_lm_is_a_miss(value):
    assert lm.found(value, len(value)) is None


KEYS = st.sampled_from([b"a", b"m@1@0@ff@half", "modèle@8@7@0@bf16".encode(), b"k" * 150])
REQUESTS = st.one_of(
    st.tuples(st.just(1), KEYS, st.binary(max_size=700)),
    st.tuples(st.sampled_from([2, 3, 4, 5]), KEYS, st.just(b"")),
)


@given(st.lists(REQUESTS, max_size=12), st.lists(st.integers(1, 900), min_size=1, max_size=8), st.booleans())
@example([(1, b"a", b""), (4, b"a", b""), (2, b"a", b"")], [186], True)
def test_any_split_gives_the_same_events_and_values(requests, sizes, accept):
    stream, events, values = b"", [], {}
    kinds = {1: lm.Put, 2: lm.Get, 3: lm.Exist}
    for command, key, payload in requests:
        stream += request(command, key, len(payload)) + payload
        if command == 5:
            events.append(lm.Health())
        elif command != 4:
            events.append(kinds[command](b"lm:" + key))
        if command == 1 and accept:
            values[b"lm:" + key] = payload
    got, stored, parser = play(stream, sizes, lambda _: accept)
    assert got == events
    assert {key: value[32:] for key, value in stored.items()} == values
    assert not parser.in_request


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (request(0), "command 0"),
        (request(6), "command 6"),
        (request(-1), "command -1"),
        (request(1, length=-1), "-1 bytes"),
        (request(1, length=lm.MAX_VALUE_BYTES + 1), "536870913 bytes"),
        (request(2, key=b"\xff\xfe"), "UTF-8"),
        (request(3, key=b""), "empty"),
    ],
)
def test_nonsense_is_one_sentence_and_the_end(header, word):
    events, stored, _ = play(header + GET, [1000])
    assert len(events) == 1
    assert word in events[0].reason
    assert not stored


def test_a_refused_value_is_dropped_and_the_stream_stays_in_step():
    large = 3 * lm.DROP_RECEIVE_BYTES + 17
    stream = request(1, b"big", large) + b"\x03" * large + request(1, b"small", 2) + b"ok" + GET
    events, stored, _ = play(stream, [1 << 20], accept=lambda value: value.length < 100)
    assert events == [lm.Put(b"lm:big"), lm.Put(b"lm:small"), lm.Get(STORED_KEY)]
    assert list(stored) == [b"lm:small"]


def test_a_payload_lands_in_the_memory_given_without_passing_through_the_parser():
    parser = lm.RequestParser()
    header = request(1, b"k", 2 * lm.VALUE_RECEIVE_BYTES)
    (buffer,) = parser.buffers()
    buffer[:] = header
    parser.received(len(header))
    value = parser.next_event()
    memory = bytearray(value.length)
    parser.land(memoryview(memory))
    (target,) = parser.buffers()
    target[:5] = b"here!"
    assert memory[lm.METADATA_BYTES : lm.METADATA_BYTES + 5] == b"here!"
    assert parser.in_request


@given(st.binary(max_size=4000), st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_garbage_never_hangs(garbage, sizes):
    events, _, _ = play(garbage, sizes)
    assert len(events) <= len(garbage) // lm.REQUEST_BYTES + 1


@given(
    st.lists(st.tuples(st.integers(-1, 7), st.integers(-5, 5000), st.binary(max_size=150)), max_size=8),
    st.binary(max_size=3000),
    st.lists(st.integers(1, 700), min_size=1, max_size=4),
)
def test_headers_that_lie_never_hang(headers, tail, sizes):
    stream = b"".join(request(command, key, length) for command, length, key in headers) + tail
    events, _, _ = play(stream, sizes)
    assert len(events) <= len(stream) // lm.REQUEST_BYTES + 1
