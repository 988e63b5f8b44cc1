"""Cases of `waits` with transactions, many clients at once, and much that goes at once."""

import random
import socket
import struct
import time
from collections.abc import Callable

from benches.node_process import MI
from benches.resp_stream import connect, request
from benches.waits_stage import BATCH, Stage


def exec_of(*said: bytes, words: int = 0) -> Callable[[Stage], None]:
    """As much as a transaction may have: 4,096 keys, each in a command of its own or all in one."""

    def prepare(stage: Stage) -> None:
        stage.fill()
        keys = [b"k%07d" % at for at in range(stage.count(4096))]
        step = words or 1
        queued = [request(*said, *keys[at : at + step]) for at in range(0, len(keys), step)]
        stage.text = request(b"MULTI") + b"".join(queued) + request(b"EXEC")

    return prepare


def crowd_of_execs(stage: Stage) -> None:
    """60 clients whose transactions are queued."""
    stage.fill()
    queued = b"".join([request(b"GET", b"k%07d" % at) for at in range(stage.count(4000))])
    for _ in range(60 - len(stage.crowd)):
        one = connect(stage.node.port, 120)
        stage.stack.callback(one.close)
        stage.crowd.append(one)
    for one in stage.crowd:
        one.sendall(request(b"MULTI") + queued)
    for one in stage.crowd:
        read_lines(one, 1 + stage.count(4000))


def read_lines(one: socket.socket, count: int) -> None:
    while count > 0:
        count -= one.recv(1 << 16).count(b"\n")


def run_execs(stage: Stage) -> None:
    for one in stage.crowd:
        one.sendall(request(b"EXEC"))
    for one in stage.crowd:
        read_lines(one, 1 + 2 * stage.count(4000))


def pipelines_of_many(stage: Stage) -> None:
    """60 clients with 9,000 commands each."""
    stage.fill()
    for _ in range(60 - len(stage.crowd)):
        one = connect(stage.node.port, 120)
        stage.stack.callback(one.close)
        stage.crowd.append(one)
    stage.text = b"".join([request(b"EXISTS", b"k%07d" % at) for at in range(stage.count(9000))])


def run_pipelines(stage: Stage) -> None:
    waiting = dict.fromkeys(stage.crowd, stage.count(9000))
    for one in stage.crowd:
        one.sendall(stage.text)
    for one, count in waiting.items():
        read_lines(one, count)


def discard_prepared(stage: Stage) -> None:
    """A transaction of values that lie in the tier."""
    stage.client.run(request(b"MULTI"))
    value = bytes(20_000)
    for at in range(stage.count(4000)):
        stage.client.run(request(b"SET", b"k%07d" % at, value))
    stage.text = request(b"DISCARD")


def resets(stage: Stage) -> None:
    """Clients with unfinished commands, gone at once."""
    for one in stage.crowd:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    stage.crowd.clear()


def to_be_reset(stage: Stage) -> None:
    for _ in range(stage.count(1500)):
        one = connect(stage.node.port)
        one.sendall(b"*2\r\n$3\r\nGET\r\n$100\r\nk")
        stage.crowd.append(one)
    stage.client.run(request(b"PING"))


def touched_at_random(stage: Stage) -> None:
    """Values whose memory lies in another order than that in which they go."""
    stage.put("/v1/capacity", {"dram": "1Gi"})
    stage.entries = 0
    count = stage.count(220_000)
    for begin in range(0, count, BATCH):
        numbers = range(begin, min(begin + BATCH, count))
        stage.client.run(b"".join([request(b"SET", b"k%07d" % at, b"v" * 2000) for at in numbers]))
    order = list(range(count))
    random.Random(1).shuffle(order)
    for begin in range(0, count, BATCH):
        touched = [request(b"TOUCH", b"k%07d" % at) for at in order[begin : begin + BATCH]]
        stage.client.run(b"".join(touched))


def small_then_large(stage: Stage) -> None:
    """A tier full of small entries, which make way for one value."""
    stage.entries = 0
    stage.fill()
    stage.text = request(b"SET", b"large", bytes(stage.count(64 * MI)))


def expiring(stage: Stage) -> None:
    """All that is on the SSD expires at once."""
    stage.generation += 1
    document = {"term": 1, "generation": stage.generation, "ttl_s": {"other": 3600.0}}
    stage.put("/v1/desired", document)
    stage.entries = 0
    stage.fill(400)


def expire(stage: Stage) -> None:
    stage.generation += 1
    stage.put("/v1/desired", {"term": 1, "generation": stage.generation, "ttl_s": {"other": 0.0}})
    time.sleep(3)  # some of the node's upkeep
