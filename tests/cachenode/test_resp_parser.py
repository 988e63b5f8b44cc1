"""Any split of a stream gives the same events; nonsense neither hangs nor grows."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_cachenode.wire import resp
from kvtide_cachenode.wire.events import Announced, Broken, Landed, Room
from kvtide_cachenode.wire.resp import LANDED_BYTES, RequestParser

small = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"$3\r\nabc\r\n", b"*1\r\n"]))
large = st.integers(LANDED_BYTES - 1, LANDED_BYTES + 3000).map(lambda n: bytes(i % 251 for i in range(n)))
commands = st.lists(st.lists(st.one_of(small, small, small, large), min_size=1, max_size=5), max_size=6)


def encoded(arguments: Sequence[bytes]) -> bytes:
    head = b"*%d\r\n" % len(arguments)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments)


@dataclass
class Here:
    memory: memoryview | None
    held_bytes: int = 0

    def grow(self, to_bytes: int) -> Room:
        """Some have room only for a part."""
        assert self.memory is not None
        return Room.HERE if to_bytes <= len(self.memory) else Room.NEVER


def parse(stream: bytes, cuts: list[int]) -> tuple[list[list[bytes]], str | None]:
    """What the parser makes of a stream that arrives in pieces of at most the given sizes, in turn."""
    parser, done, at, turn = RequestParser(), [], 0, 0
    while at < len(stream):
        buffers = parser.buffers()
        assert all(len(buffer) for buffer in buffers), "a parser that asks for nothing hangs"
        piece = stream[at : at + min(cuts[turn % len(cuts)], sum(map(len, buffers)))]
        rest = piece
        for buffer in buffers:
            buffer[: len(rest)] = rest[: len(buffer)] if len(rest) > len(buffer) else rest
            rest = rest[len(buffer) :]
        at, turn = at + len(piece), turn + 1
        parser.received(len(piece))
        while (event := parser.next_event()) is not None:
            if isinstance(event, Announced):
                wanted = event.index % 2
                parser.land(Here(memoryview(bytearray(event.length)) if wanted else None))
            elif isinstance(event, Broken):
                return done, event.reason
            else:
                done.append(whole(event) if isinstance(event, Landed) else event)
    return done, None


def whole(landed: Landed) -> list[bytes]:
    """Words and places in their order."""
    words, arguments = iter(landed.words), []
    for index in range(len(landed.words) + len(landed.places)):
        place = landed.places.get(index)
        memory = place and place.memory
        arguments.append(next(words) if place is None else b"dropped" if memory is None else bytes(memory))
    return arguments


def expected(arguments: list[bytes]) -> list[bytes]:
    return [
        b"dropped" if len(argument) >= LANDED_BYTES and index % 2 == 0 else argument
        for index, argument in enumerate(arguments)
    ]


@given(commands, st.lists(st.integers(1, 70_000), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_split_gives_the_commands_that_were_sent(sent: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(map(encoded, sent))
    assert parse(stream, cuts) == ([expected(arguments) for arguments in sent], None)


def test_byte_by_byte() -> None:
    sent = [[b"SET", b"k", bytes(LANDED_BYTES)], [b"PING"], [b"GET", b"a\r\nb"], [b"ECHO", b""]]
    stream = b"".join(map(encoded, sent))
    assert parse(stream, [1]) == ([expected(arguments) for arguments in sent], None)


def test_thousands_of_pipelined_commands_in_one_piece() -> None:
    sent = [[b"EXISTS", *(b"key:%d:%d" % (i, j) for j in range(i % 70))] for i in range(2000)]
    assert parse(b"".join(map(encoded, sent)), [10**9]) == (sent, None)


def test_inline_commands() -> None:
    assert parse(b"PING\r\n\r\nset a 'b c'\r\nGET a\n", [3]) == (
        [[b"PING"], [b"set", b"a", b"b c"], [b"GET", b"a"]],
        None,
    )


def test_empty_requests_are_skipped_without_recursion() -> None:
    assert parse(b"*0\r\n*-1\r\n" * 20_000 + encoded([b"PING"]), [50_000]) == ([[b"PING"]], None)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*99999999\r\n", "invalid multibulk length"),
        (b"*" + b"1" * 100, "too big mbulk count string"),
        (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$" + b"1" * 100, "too big bulk count string"),
        (b"*1\r\n$4\r\nPINGxx", "expected CRLF after a bulk string"),
        (b"*2\r\n$3\r\nSET\r\n$20000\r\n" + b"v" * 20_000 + b"xx", "expected CRLF after a bulk string"),
        (b"a" * 5000, "too big inline request"),
        (b"set 'a\r\n", "unbalanced quotes in request"),
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_what_is_not_resp_breaks_the_stream(stream: bytes, reason: str, cut: int) -> None:
    assert parse(encoded([b"PING"]) + stream, [cut]) == ([[b"PING"]], reason)


def test_many_small_arguments_are_bounded() -> None:
    piece = b"$16000\r\n" + bytes(16_000) + b"\r\n"
    stream = b"*100000\r\n" + piece * (resp.MAX_COMMAND_BYTES // 16_000 + 1)
    assert parse(stream, [10**6]) == ([], "too big request")


@given(st.binary(max_size=300), st.lists(st.integers(1, 64), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_garbage_ends(stream: bytes, cuts: list[int]) -> None:
    whole, split = parse(stream, [10**6]), parse(stream, cuts)
    assert whole == split


pieces_of_resp = st.sampled_from(
    [b"*1\r\n", b"*2\r\n", b"$4\r\n", b"PING", b"\r\n", b"$20000\r\n", b"x" * 20_000, b"\n", b"'"]
)


@given(st.lists(pieces_of_resp, max_size=12), st.lists(st.integers(1, 20_100), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_almost_resp_is_understood_alike_however_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    assert parse(stream, [10**6]) == parse(stream, cuts)
