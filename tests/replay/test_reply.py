from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.replay.reply import (
    ARRAY_MAX,
    COLLECTED_MAX,
    LINE_MAX,
    CheckedValue,
    ProtocolError,
    ReplyReader,
    Scalar,
    ServerError,
)

TEXT = st.binary(max_size=30).filter(lambda text: b"\r" not in text and b"\n" not in text)
SCALARS = st.one_of(
    TEXT.map(lambda text: (b"+" + text + b"\r\n", text)),
    TEXT.map(lambda text: (b"-" + text + b"\r\n", ServerError(text.decode(errors="replace")))),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (b":%d\r\n" % number, number)),
    st.binary(max_size=300).map(lambda value: (b"$%d\r\n%b\r\n" % (len(value), value), value)),
    st.just((b"$-1\r\n", None)),
)
REPLIES = st.one_of(
    SCALARS.map(lambda scalar: (scalar[0], [scalar[1]])),
    st.lists(SCALARS, max_size=5).map(
        lambda scalars: (
            b"*%d\r\n" % len(scalars) + b"".join(sent for sent, _ in scalars),
            [meant for _, meant in scalars],
        )
    ),
)


def feed(reader: ReplyReader, data: bytes, cuts: list[int]) -> bool:
    finished = False
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        rest = memoryview(data)[start:end]
        while rest:
            assert not finished, "finished before the last byte"
            room = reader.free()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            finished = reader.received(count)
            rest = rest[count:]
    return finished


@given(st.lists(st.tuples(REPLIES, st.lists(st.integers(0, 1000), max_size=6)), max_size=4))
def test_any_split_of_the_stream_reads_the_same(
    replies: list[tuple[tuple[bytes, list[Scalar]], list[int]]],
) -> None:
    reader = ReplyReader()
    for (sent, meant), cuts in replies:
        reader.expect(None)
        assert feed(reader, sent, cuts)
        assert reader.scalars == meant


@given(st.integers(0, 700_000), st.integers(0, 2**32), st.lists(st.integers(0, 2**20), max_size=5))
def test_a_checked_value_is_shown_whole_and_in_order(length: int, seed: int, cuts: list[int]) -> None:
    value = (b"%d," % seed * (length // 2 + 1))[:length]
    seen = bytearray()

    def check(position: int, chunk: memoryview) -> bool:
        assert position == len(seen)
        seen.extend(chunk)
        return True

    reader = ReplyReader()
    reader.expect(check)
    assert feed(reader, b"$%d\r\n%b\r\n" % (length, value), cuts)
    assert reader.scalars == [CheckedValue(length, right=True)]
    assert seen == value


def test_one_wrong_chunk_makes_the_value_wrong() -> None:
    reader = ReplyReader()
    reader.expect(lambda position, _: position > 0)
    assert feed(reader, b"$6\r\nabcdef\r\n", [7])
    assert reader.scalars == [CheckedValue(6, right=False)]


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b":twelve\r\n",
        b"$x\r\n",
        b"$%d\r\n" % (COLLECTED_MAX + 1),
        b"*%d\r\n" % (ARRAY_MAX + 1),
        b"+OK\r\n+OK\r\n",
        b"+" + b"x" * (LINE_MAX + 1),
    ],
)
def test_what_is_no_reply_is_an_error(sent: bytes) -> None:
    reader = ReplyReader()
    reader.expect(None)
    with pytest.raises(ProtocolError):
        feed(reader, sent, [])


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6))
def test_garbage_ends_in_a_reply_an_error_or_a_wait(pieces: list[bytes]) -> None:
    reader = ReplyReader()
    reader.expect(None)
    for piece in pieces:
        room = reader.free()
        assert len(room) > len(piece)
        room[: len(piece)] = piece
        try:
            if reader.received(len(piece)):
                return
        except ProtocolError:
            return
