"""A history in a bucket: written, read back, forgotten and planned on, through a real S3 server.

The server is moto's. It needs packages that our own exclude, so that it lives in an environment of its own:
``uv tool install --with flask --with flask-cors 'moto[s3]'`` puts `moto_server` on the path.
"""

import re
import shutil
import subprocess
import time
from itertools import count
from urllib.request import Request, urlopen

import numpy as np
import pytest

from kvtide_operator.cli.past import look_back
from kvtide_operator.history.recorded import HistoryError, RecordedHistory, Span, utc
from kvtide_operator.workload.trace import Trace

HOUR_S = 3600.0
START_S = 1_795_000_000.0 // HOUR_S * HOUR_S
fresh = count()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    command = shutil.which("moto_server")
    if command is None:
        pytest.skip("no moto_server on the path")
    log = tmp_path_factory.mktemp("moto") / "log"
    with (
        log.open("w") as said,
        subprocess.Popen([command, "-H", "127.0.0.1", "-p", "0"], stdout=said, stderr=said) as server,
    ):
        try:
            while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
            yield found[1]
        finally:
            server.kill()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"history-{next(fresh)}"
    with urlopen(Request(f"{endpoint}/{name}", method="PUT")):
        pass
    return f"s3://{name}"


def hour(number: int, requests: int) -> Trace:
    """Requests a minute apart, each with a block of its own and one that all share."""
    at = np.arange(requests)
    return Trace(
        arrival_s=at * 60.0,
        input_tokens=np.full(requests, 900, dtype=np.int32),
        output_tokens=np.full(requests, 50, dtype=np.int32),
        block_start=np.arange(requests + 1) * 2,
        blocks=np.stack([np.zeros(requests), at + 1], axis=1).ravel().astype(np.int32),
        block_ids=np.concatenate([[7], 1000 * number + at]).astype(np.int64),
        weight=np.ones(requests),
        block_tokens=512,
        observed_at="engine",
        started_at_s=START_S + number * HOUR_S,
    )


def write(history: RecordedHistory, number: int, requests: int, keep_s: float = float("inf")) -> None:
    start_s = START_S + number * HOUR_S
    history.write(hour(number, requests), start_s, start_s + HOUR_S, keep_s)


@pytest.mark.parametrize("prefix", ["", "/team/chat"])
def test_what_was_written_to_a_bucket_is_read_back(bucket, prefix):
    assert RecordedHistory(bucket + prefix).span() is None
    for number in range(3):
        write(RecordedHistory(bucket + prefix), number, 10 + number)
    history = RecordedHistory(bucket + prefix)
    assert history.span() == Span(START_S, START_S + 3 * HOUR_S)
    trace = history.read(START_S + HOUR_S, START_S + 3 * HOUR_S)
    assert trace.requests == 11 + 12
    assert trace.notes == ()
    assert trace.block_ids[trace.blocks_of(22)].tolist() == [7, 2011]


def test_a_bucket_keeps_only_what_it_should(bucket):
    history = RecordedHistory(f"{bucket}/chat")
    for number in range(4):
        write(history, number, 5, keep_s=2 * HOUR_S)
    assert history.span() == Span(START_S + 2 * HOUR_S, START_S + 4 * HOUR_S)


def test_kvtide_plan_looks_back_into_a_bucket(bucket):
    for number in range(2):
        write(RecordedHistory(f"{bucket}/chat"), number, 10)
    past = look_back(f"{bucket}/chat", None, "1h", with_following=True)
    assert (past.trace.requests, past.following.requests) == (10, 10)
    assert past.name.startswith("the time before")
    assert utc(START_S) in past.name


def test_a_bucket_that_is_not_there_is_said(bucket):
    with pytest.raises(HistoryError, match=r"s3://elsewhere/chat: .*bucket does not exist"):
        write(RecordedHistory("s3://elsewhere/chat"), 0, 1)


def test_a_bucket_without_an_answer_is_said(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(HistoryError, match=f"{bucket}/chat: "):
        RecordedHistory(f"{bucket}/chat").span()


def test_keys_that_are_given_go_before_those_of_the_environment(bucket, endpoint, monkeypatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    where = endpoint.removeprefix("http://")
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "own", "AWS_REGION": "us-east-1"}
    history = RecordedHistory(f"{bucket}/own?endpoint_override={where}&scheme=http", keys)
    write(history, 0, 3)
    assert history.read(START_S, START_S + HOUR_S).requests == 3
