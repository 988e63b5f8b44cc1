"""The benches of right answers can find wrong ones; short runs of them at a node."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benches.resp_stream import BrokenStreamError, ReplyReader, RespError
from benches.truth_model import PrivateKey, SharedKey, Values

ROOT = Path(__file__).parents[2]
VALUES = Values(1)


def shared() -> SharedKey:
    return SharedKey(1, b"shared", VALUES)


def value_of(key: SharedKey | PrivateKey, serial: int, length: int) -> bytes:
    header, body = VALUES.parts(key.number, serial, length)
    return header + bytes(body)


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 2048, 16_384, 100_000])
def test_a_value_is_its_own_and_no_other(length: int) -> None:
    key = PrivateKey(7, b"k", VALUES)
    write = key.begin(length, 1)
    key.wrote(write, 2)
    value = value_of(key, write.serial, length)
    assert len(value) == length
    assert key.read(value, 3, 4) is None
    assert key.read(value[:-1] + bytes([value[-1] ^ 1]), 5, 6) is not None
    assert key.read(value + b"x", 7, 8) is not None


def test_own_keys_have_the_newest_value_or_none() -> None:
    key = PrivateKey(7, b"k", VALUES)
    old, new = key.begin(50, 1), key.begin(60, 2)
    key.wrote(old, 3)
    key.wrote(new, 4)
    assert key.read(None, 5, 6) is None
    assert key.read(value_of(key, new.serial, 60), 7, 8) is None
    assert key.came_back == 1
    assert key.read(value_of(key, old.serial, 50), 9, 10) is not None
    key.deleted(11, 12)
    assert not key.may_exist()
    assert key.read(value_of(key, new.serial, 60), 13, 14) is not None


def test_a_write_of_unknown_fate_may_be_there_or_not() -> None:
    key = PrivateKey(7, b"k", VALUES)
    known, unknown = key.begin(50, 1), key.begin(60, 2)
    key.wrote(known, 3)
    key.unsure(unknown)
    assert key.read(value_of(key, known.serial, 50), 4, 5) is None
    key.unsure(unknown)
    assert key.read(value_of(key, unknown.serial, 60), 6, 7) is None


def history(*events: tuple[str, int, int, int]) -> list[str]:
    """Contradictions of (set, read or del; which value; begin; end), told in the order of their ends."""
    key, writes = shared(), {}
    for what, which, begin, _ in events:
        if what == "set":
            writes[which] = key.begin(30, begin)
    for what, which, begin, end in sorted(events, key=lambda event: event[3]):
        if what == "set":
            key.wrote(writes[which], end)
        elif what == "del":
            key.deleted(begin, end)
        else:
            assert key.read(value_of(key, writes[which].serial, 30), begin, end) is None
    return list(key.contradictions())


@pytest.mark.parametrize(
    "events",
    [
        [("set", 1, 0, 1), ("set", 2, 2, 3), ("read", 1, 4, 5)],  # an older value
        [("set", 1, 0, 1), ("del", 0, 2, 3), ("read", 1, 4, 5)],  # a deleted one
        [
            ("set", 1, 0, 9),
            ("set", 2, 0, 9),
            ("read", 1, 1, 2),
            ("read", 2, 3, 4),
            ("read", 1, 5, 6),
        ],  # to and fro
        [("set", 1, 0, 9), ("set", 2, 1, 2), ("read", 1, 3, 4), ("read", 2, 5, 6), ("read", 1, 7, 8)],
    ],
)
def test_histories_that_no_order_explains(events: list[tuple[str, int, int, int]]) -> None:
    assert history(*events)


@pytest.mark.parametrize(
    "events",
    [
        [("set", 1, 0, 1), ("read", 1, 2, 3), ("set", 2, 4, 5), ("read", 2, 6, 7)],
        [("set", 1, 0, 1), ("set", 2, 2, 9), ("read", 1, 3, 4), ("read", 2, 5, 6)],  # it took effect between
        [("set", 1, 0, 9), ("set", 2, 0, 9), ("read", 2, 1, 2), ("read", 1, 3, 4)],
        [("set", 1, 0, 5), ("del", 0, 1, 6), ("read", 1, 7, 8)],  # DEL came first
        [("set", 1, 0, 1), ("del", 0, 2, 9), ("read", 1, 3, 4)],
    ],
)
def test_histories_that_some_order_explains(events: list[tuple[str, int, int, int]]) -> None:
    assert history(*events) == []


def test_a_refused_write_must_not_be_read() -> None:
    key = shared()
    write = key.begin(30, 1)
    key.refused(write)
    assert key.read(value_of(key, write.serial, 30), 2, 3) is None
    assert list(key.contradictions())


def test_replies_are_the_same_however_they_are_cut() -> None:
    said = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n$1\r\nx\r\n*1\r\n:5\r\n-ERR no\r\n_\r\n%1\r\n+k\r\n:1\r\n"
    whole = list(ReplyReader().feed(said))
    assert whole == [b"OK", b"a\r\n", None, [b"x", [5]], b"ERR no", None, [b"k", 1]]
    assert isinstance(whole[4], RespError)
    reader = ReplyReader()
    assert [reply for at in range(len(said)) for reply in reader.feed(said[at : at + 1])] == whole
    with pytest.raises(BrokenStreamError):
        list(ReplyReader().feed(b"?\r\n"))


def run(name: str, *options: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", f"benches.{name}", *options, "--json"],
        capture_output=True, text=True, timeout=170, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    said: dict[str, object] = json.loads(done.stdout)
    return said


@pytest.mark.timeout(180)
def test_some_thousand_commands_are_answered_right(tmp_path: Path) -> None:
    options = ["--commands", "3000", "--dram", "16Mi", "--seed", "3", "--directory", str(tmp_path)]
    assert run("truth", *options)["good"]


@pytest.mark.timeout(180)
def test_memory_of_large_values_stays_within_the_cap() -> None:
    assert run("memory", "--cap", "16Mi", "--connections", "4", "--mixes", "7")["good"]


@pytest.mark.timeout(180)
def test_connections_that_only_wait_cost_little() -> None:
    options = ["--connections", "100", "--hold", "0.5", "--behaviours", "5", "--password"]
    assert run("before_login", *options)["good"]
