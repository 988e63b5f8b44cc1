"""Three CPU seconds of `benches/fuzz.py`, and inputs that have mattered."""

import subprocess
import sys
from pathlib import Path

import pytest

from kvtide_cachenode.wire.events import Broken
from kvtide_cachenode.wire.resp import RequestParser

ROOT = Path(__file__).parents[2]


def test_three_seconds_of_fuzzing_find_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benches.fuzz", "0.05", "--seed", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "said",
    [
        b"*1\r\n+PING\r\n",
        b"*2\r\n$3\r\nGET\r\n$-1\r\n",
        b"*2\r\n$3\r\nGETT\r\n$1\r\n",
        b"*2\r\n$3\r\nGET\r\n+A\r\n",
        b"*2\r\n$3\r3\n",
    ],
)
def test_nonsense_is_noticed_as_soon_as_it_is_there(said: bytes) -> None:
    """What lacks only its end is waited for; this does not."""
    parser = RequestParser()
    parser.buffers()[0][: len(said)] = said
    parser.received(len(said))
    event = None
    while not isinstance(event, Broken):
        event = parser.next_event()
        assert event is not None


def test_a_long_command_in_single_bytes_is_not_split_again_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"*1000\r\n" + b"$1\r\nk\r\n" * 1000
    parser, events, splits = RequestParser(), [], []
    split = RequestParser._split_commands
    monkeypatch.setattr(RequestParser, "_split_commands", lambda self: splits.append(split(self)))
    for byte in said:
        parser.buffers()[0][0] = byte
        parser.received(1)
        while (event := parser.next_event()) is not None:
            events.append(event)
    assert events == [[b"k"] * 1000]
    assert len(splits) < 10
