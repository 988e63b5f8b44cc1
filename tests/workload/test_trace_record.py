"""`kvtide trace record` against sockets that behave as vLLM's publisher does, and misbehave."""

import json
import signal
import subprocess
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
import zmq

from kvtide_operator.workload.readers import read_trace

RECORD = [Path(sysconfig.get_path("scripts"), "kvtide"), "trace", "record"]
END = (-1).to_bytes(8, "big", signed=True)


def batch_of(at_s, *events):
    return msgspec.msgpack.encode([at_s, list(events), 0])


def stored(parent, *blocks):
    """Blocks are named by small numbers."""
    hashes = [(block << 11).to_bytes(32, "big") for block in blocks]
    parent = None if parent is None else parent << 11  # both forms name one block
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": []}
    return event | {"block_size": 16, "lora_id": None, "medium": "GPU", "lora_name": None, "group_idx": 0}


class Publisher:
    """Publishes and remembers, as `ZmqEventPublisher` of vLLM 0.32 does."""

    def __init__(self):
        self._context = zmq.Context()
        # An XPUB tells of subscribers, so that nothing is published before they are there.
        self._events = self._context.socket(zmq.XPUB)
        self._replay = self._context.socket(zmq.ROUTER)
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (self._events, self._replay)]
        self.url, self.replay_url = (f"tcp://127.0.0.1:{port}" for port in ports)
        self.kept = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._repeat)
        self._thread.start()

    def await_subscriber(self):
        assert self._events.poll(30_000), "nobody subscribes"
        assert self._events.recv() == b"\x01"

    def keep(self, number, at_s, *events):
        self.kept[number] = batch_of(at_s, *events)

    def publish(self, number, at_s, *events):
        self.keep(number, at_s, *events)
        self.send(b"topic", number.to_bytes(8, "big"), self.kept[number])

    def send(self, *frames):
        self._events.send_multipart(frames)

    def close(self):
        self._closing.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _repeat(self):
        while not self._closing.is_set():
            if not self._replay.poll(50):
                continue
            who, empty, first = self._replay.recv_multipart()
            assert empty == b""
            for number, payload in sorted(self.kept.items()):
                if number >= int.from_bytes(first, "big"):
                    self._replay.send_multipart([who, b"", b"topic", number.to_bytes(8, "big"), payload])
            self._replay.send_multipart([who, b"", b"", END, b""])


@pytest.fixture
def publisher():
    publisher = Publisher()
    yield publisher
    publisher.close()


class Recorder:
    """The command in a process of its own."""

    def __init__(self, file, *options):
        command = [*RECORD, "-o", str(file), *options]
        self.file = file
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = []
        self.await_sentence("recording; Ctrl-C ends it")

    def await_sentence(self, wanted):
        while True:
            line = self.process.stderr.readline()
            assert line, f"it ended without saying {wanted!r}: {self.said}"
            self.said.append(line.strip())
            if wanted in line:
                return

    def end(self, number=signal.SIGINT):
        """The requests it has written, by id; `said` is all it said."""
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=120)[1]
        self.said += rest.splitlines()
        assert self.process.returncode == 0, self.said
        return [json.loads(line) for line in self.file.read_text().splitlines()]


def chains(lines):
    return [line["hash_ids"] for line in sorted(lines, key=lambda line: line["timestamp"])]


@pytest.fixture
def record(tmp_path, publisher):
    started = []

    def start(*options):
        recorder = Recorder(tmp_path / "t.jsonl", "--kv-events", publisher.url, *options)
        started.append(recorder)
        publisher.await_subscriber()
        return recorder

    yield start
    for recorder in started:
        recorder.process.kill()
        recorder.process.communicate()


def test_history_gaps_and_garbage(record, publisher):
    publisher.keep(0, 100.0, stored(None, 1, 2))
    publisher.keep(1, 101.0, stored(2, 3, 4))
    recorder = record("--replay", publisher.replay_url)
    publisher.publish(2, 105.0, stored(None, 1, 2, 3, 4))
    publisher.keep(3, 106.0, stored(None, 9))  # does not arrive
    publisher.publish(4, 107.0, stored(9, 10, 11))
    recorder.await_sentence("1 batches of events did not arrive; 1 of them were sent again, 0 are lost")
    publisher.send(b"no", b"batch")
    recorder.await_sentence("no batch of KV events")
    publisher.send(b"topic", (5).to_bytes(8, "big"), b"\xc1")
    recorder.await_sentence("batch 5 is left out: no MessagePack")
    lines = recorder.end()
    assert chains(lines) == [[1, 2, 3, 4], [1, 2, 3, 4], [9, 10, 11]]
    assert [line["timestamp"] for line in lines] == [100_000, 105_000, 106_000]
    assert [line["input_length"] for line in lines] == [64, 64, 48]
    assert any("3 requests in blocks of 16 tokens from 5 batches" in said for said in recorder.said)
    trace = read_trace(recorder.file)
    assert (trace.requests, trace.unique_blocks, trace.block_tokens) == (3, 7, 16)
    assert (trace.observed_at, trace.hit_blocks) == ("engine", None)


def test_without_replay_what_is_lost_is_said_and_ends_requests(record, publisher):
    recorder = record()
    publisher.publish(7, 100.0, stored(None, 1, 2))
    publisher.publish(9, 101.0, stored(2, 3, 4), stored(50, 51))
    recorder.await_sentence("1 batches of events did not arrive; 0 of them were sent again, 1 are lost")
    lines = recorder.end(signal.SIGTERM)
    # What follows a gap may be another request's: it is told as one of its own, rebuilt from its beginning.
    assert chains(lines) == [[1, 2], [1, 2, 3, 4]]
    said = "\n".join(recorder.said)
    assert "1 of them rebuilt" in said
    assert "1 batches are lost" in said
    assert "1 parts of requests follow blocks from before the recording" in said


class Metrics(BaseHTTPRequestHandler):
    """vLLM's two counters, one engine each."""

    counters = (0, 0)

    def do_GET(self):
        queries, hits = self.counters
        text = "# TYPE vllm:prefix_cache_queries counter\n"
        text += f'vllm:prefix_cache_queries_total{{engine="0"}} {queries}\n'
        text += f'# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits_total{{engine="0"}} {hits}\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


def test_the_share_of_what_no_event_shows_is_estimated(record, publisher):
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever).start()
        Metrics.counters = (1000, 500)
        recorder = record("--metrics", f"http://127.0.0.1:{server.server_port}/metrics")
        publisher.publish(0, 100.0, stored(None, 1, 2))  # 32 tokens, all new
        publisher.publish(1, 101.0, stored(2, 3))  # taken for generated tokens
        publisher.publish(2, 140.0, stored(2, 5, 6))  # 64 tokens, of which 32 hit
        # Two more requests of 32 tokens hit whole.
        Metrics.counters = (1160, 596)
        publisher.send(b"", (3).to_bytes(8, "big"), b"\xc1")  # when this is told, all has come
        recorder.await_sentence("batch 3 is left out")
        lines = recorder.end()
        server.shutdown()
    assert len(lines) == 2
    assert recorder.said[-1] == (
        "of 160 prompt tokens about 40.0% were of requests that no event shows"
        " (96 hit the engine's own cache, 32 of them in recorded requests)"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--kv-events", "tcp://*:5557"], "name its host"),
        (
            ["--kv-events", "localhost:5557"],
            "--kv-events localhost:5557 is no address to connect to; give tcp://HOST:PORT",
        ),
        (["--kv-events", "tcp://127.0.0.1:1", "--replay", "x"], "--replay x is no address"),
        (
            ["--kv-events", "tcp://127.0.0.1:1", "-o", "no/such/file"],
            "-o no/such/file: No such file or directory; write elsewhere",
        ),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, options, sentence):
    command = [*RECORD, "-o", str(tmp_path / "t"), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
