from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.wire.resp_client import (
    MAX_COLLECTED_BYTES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    Compared,
    ProtocolError,
    Reading,
    Refused,
    Reply,
    ReplyReader,
    encode,
    encode_parts,
    encode_set,
)

T = TypeVar("T")

LINE_BYTES = 1024
TEXT = st.binary(max_size=30).filter(lambda text: b"\r" not in text and b"\n" not in text)
Said = tuple[bytes, Reply]
SCALARS: st.SearchStrategy[Said] = st.one_of(
    TEXT.map(lambda text: (b"+" + text + b"\r\n", text)),
    TEXT.map(lambda text: (b"-" + text + b"\r\n", Refused(text.decode(errors="replace")))),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (b":%d\r\n" % number, number)),
    st.binary(max_size=3000).map(lambda value: (b"$%d\r\n%b\r\n" % (len(value), value), value)),
    st.sampled_from([(b"$-1\r\n", None), (b"*-1\r\n", None)]),
)


def array(elements: list[Said]) -> Said:
    return b"*%d\r\n" % len(elements) + b"".join(sent for sent, _ in elements), [said for _, said in elements]


REPLIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4).map(array), max_leaves=8)
CUTS = st.lists(st.integers(0, 5000), max_size=8)


class Shell:
    """A server's bytes in pieces; each goes where it is wanted, or through the reader's own buffer."""

    def __init__(self, data: bytes, cuts: list[int], *, through_buffer: bool) -> None:
        self.reader = ReplyReader(2 * LINE_BYTES, LINE_BYTES)
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        self.pieces = [data[start:end] for start, end in pairwise(edges)]
        self.through_buffer = through_buffer

    def run(self, reading: Reading[T]) -> T:
        try:
            wanted = next(reading)
            while True:
                memory = self.reader.free() if self.through_buffer else wanted.memory
                assert memory, "bytes are waited for and have no place"
                if not self.pieces:
                    raise EOFError
                piece = self.pieces.pop(0)
                count = min(len(piece), len(memory))
                memory[:count] = piece[:count]
                if piece[count:]:
                    self.pieces.insert(0, piece[count:])
                if self.through_buffer:
                    self.reader.received(count)
                    count = 0
                wanted = reading.send(count)
        except StopIteration as end:
            result: T = end.value
            return result


@given(st.lists(REPLIES, max_size=4), CUTS, st.booleans())
def test_replies_are_the_same_however_the_stream_is_cut(
    replies: list[Said], cuts: list[int], through_buffer: bool
) -> None:
    shell = Shell(b"".join(sent for sent, _ in replies), cuts, through_buffer=through_buffer)
    for _, said in replies:
        assert shell.run(shell.reader.reply()) == said
    assert shell.reader.is_empty
    assert not shell.pieces


@given(st.integers(0, 20_000), st.integers(0, 10), CUTS, st.booleans())
def test_a_value_lands_in_the_memory_given_for_it(
    length: int, more: int, cuts: list[int], through_buffer: bool
) -> None:
    value = bytes(range(256)) * (length // 256 + 1)
    shell = Shell(b"$%d\r\n%b\r\n:7\r\n" % (length, value[:length]), cuts, through_buffer=through_buffer)
    memory = bytearray(b"?" * (length + more))
    assert shell.run(shell.reader.value_into(memoryview(memory))) == length
    assert memory == value[:length] + b"?" * more
    assert shell.run(shell.reader.reply()) == 7


@given(st.integers(0, 20_000), st.integers(0, 20_000), CUTS, st.booleans())
def test_a_value_is_compared_whole_and_in_order(
    length: int, wrong_at: int, cuts: list[int], through_buffer: bool
) -> None:
    value = b"0123456789" * (length // 10 + 1)
    seen = bytearray()

    def check(position: int, chunk: memoryview) -> bool:
        assert position == len(seen)
        seen.extend(chunk)
        return not position <= wrong_at < position + len(chunk)

    shell = Shell(b"$%d\r\n%b\r\n" % (length, value[:length]), cuts, through_buffer=through_buffer)
    assert shell.run(shell.reader.compared(check)) == Compared(length, is_right=wrong_at >= length)
    assert seen[: wrong_at + 1] == value[: min(length, wrong_at + 1)]


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"$-1\r\n", None), (b"-ERR no\r\n", Refused("ERR no")), (b"+OK\r\n", b"OK"), (b":1\r\n", 1)],
)
def test_what_is_no_value_is_not_compared(sent: bytes, said: Reply) -> None:
    shell = Shell(sent, [], through_buffer=False)
    assert shell.run(shell.reader.compared(lambda _, __: False)) == said


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b":twelve\r\n",
        b":1_0\r\n",
        b":" + b"9" * 500 + b"\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"$3\r\nabcde\r\n",
        b"$%d\r\n" % (MAX_COLLECTED_BYTES + 1),
        b"*%d\r\n" % (MAX_ELEMENTS + 1),
        b"*1\r\n" * (MAX_DEPTH + 2),
        b"+" + b"x" * (LINE_BYTES + 1),
    ],
)
@pytest.mark.parametrize("through_buffer", [False, True])
def test_what_is_no_reply_is_an_error(sent: bytes, through_buffer: bool) -> None:
    shell = Shell(sent, [], through_buffer=through_buffer)
    with pytest.raises(ProtocolError):
        shell.run(shell.reader.reply())


@pytest.mark.parametrize("sent", [b"$9\r\n123456789\r\n", b"+OK\r\n", b"*1\r\n:1\r\n", b":3\r\n"])
def test_what_is_no_value_that_fits_is_an_error(sent: bytes) -> None:
    shell = Shell(sent, [], through_buffer=False)
    with pytest.raises(ProtocolError, match="a value of at most 8 bytes belongs"):
        shell.run(shell.reader.value_into(memoryview(bytearray(8))))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.booleans())
def test_garbage_ends_in_a_reply_an_error_or_a_wait(pieces: list[bytes], through_buffer: bool) -> None:
    cuts = [len(b"".join(pieces[:count])) for count in range(len(pieces))]
    shell = Shell(b"".join(pieces), cuts, through_buffer=through_buffer)
    try:
        while True:
            shell.run(shell.reader.reply())
    except (ProtocolError, EOFError):
        assert sum(map(len, shell.pieces)) <= sum(map(len, pieces))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.integers(0, 4))
def test_a_command_is_what_a_server_reads(words: list[bytes], large: int) -> None:
    whole = encode(*words)
    shell = Shell(whole, [], through_buffer=False)
    assert shell.run(shell.reader.reply()) == words
    parts = encode_parts([memoryview(word) if at == large else word for at, word in enumerate(words)])
    assert b"".join(map(bytes, parts)) == whole
    if len(words) > large:
        assert any(isinstance(part, memoryview) and part == words[large] for part in parts)


def test_a_set_is_begun_without_its_value() -> None:
    assert encode_set(b"key", 5) + b"value\r\n" == encode(b"SET", b"key", b"value")
