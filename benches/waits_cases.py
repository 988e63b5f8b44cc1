"""What may keep other clients waiting: how each case is prepared, and what it then does in one go."""

import json
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from benches.node_process import MI, NodeProcess, node_process
from benches.resp_stream import Client, connect, request

WORDS: Final = 1_000_000
ENTRIES: Final = 500_000
VALUE_BYTES: Final = 64 * MI
BATCH: Final = 2000


@dataclass
class Stage:
    """The node, a client of it, and what a case keeps from its preparation; ``scale`` makes all smaller."""

    node: NodeProcess
    scale: float
    stack: ExitStack
    client: Client = field(init=False)
    text: bytes = b""
    entries: int = 0
    generation: int = 0
    second: NodeProcess | None = None
    crowd: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(self.node.port, timeout_s=120)

    def count(self, of: int) -> int:
        return max(int(of * self.scale), 1)

    def fill(self, length: int = 10) -> None:
        """Half a million entries, unless they are there."""
        wanted = self.count(ENTRIES)
        for begin in range(self.entries, wanted, BATCH):
            numbers = range(begin, min(begin + BATCH, wanted))
            self.client.run(b"".join([request(b"SET", b"k%07d" % at, b"v" * length) for at in numbers]))
        self.entries = wanted

    def say(self) -> None:
        """Send what is prepared and read all that is answered."""
        self.client.run(self.text)

    def put(self, path: str, body: object) -> None:
        code, said = self.node.ask("PUT", path, body)
        assert code in (200, 202), f"{path} answers {code}: {said[:200]!r}"


@dataclass(frozen=True)
class Case:
    """``prepare`` runs before each round and is not measured."""

    name: str
    prepare: Callable[[Stage], None]
    act: Callable[[Stage], None] = Stage.say
    dram: str = "1Gi"
    ssd: bool = False


def words(
    *head: bytes, word: bytes = b"k%07d", filled: bool = False, step: int = 1
) -> Callable[[Stage], None]:
    """A command of a million words."""

    def prepare(stage: Stage) -> None:
        if filled:
            stage.fill()
        count = stage.count(WORDS)
        body = [word % at if b"%" in word else word for at in range(0, count, step)]
        stage.text = request(*head, *body)

    return prepare


def mset(stage: Stage) -> None:
    stage.text = request(
        b"MSET", *(b"k%07d" % (at // 2) if at % 2 == 0 else b"v" for at in range(stage.count(WORDS)))
    )


def line(*said: bytes) -> Callable[[Stage], None]:
    """One short command at a node with half a million entries."""

    def prepare(stage: Stage) -> None:
        stage.fill()
        stage.text = request(*said)

    return prepare


def emptied(prepare: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """The case takes the entries away: they are stored anew each time."""

    def again(stage: Stage) -> None:
        stage.entries = 0
        prepare(stage)

    return again


def two_tiers(*said: bytes) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        stage.fill(400)
        stage.text = request(*said)

    return prepare


def pipeline(*said: bytes, values: int = 0) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        if values:
            stage.client.run(request(b"SET", b"one", b"v" * values))
        stage.text = request(*said) * stage.count(10_000)

    return prepare


def set_large(stage: Stage) -> None:
    stage.text = request(b"SET", b"large", bytes(stage.count(VALUE_BYTES)))


def get_large(stage: Stage) -> None:
    set_large(stage)
    stage.say()
    stage.text = request(b"GET", b"large")


def clients(stage: Stage) -> None:
    """A full house, less the two that measure."""
    for _ in range(stage.count(1990) - len(stage.crowd)):
        one = connect(stage.node.port)
        stage.stack.callback(one.close)
        stage.crowd.append(one)
    stage.text = request(b"CLIENT", b"LIST")


def come_and_go(stage: Stage) -> None:
    crowd = [connect(stage.node.port) for _ in range(stage.count(1500))]
    for one in crowd:
        one.close()


def member(node: NodeProcess) -> dict[str, Any]:
    node_id = node.status()["cluster"]["node_id"]
    return {"id": node_id, "host": "127.0.0.1", "port": node.port, "dram_bytes": 1 << 30}


def topology(stage: Stage) -> dict[str, Any]:
    """Every slot by itself, in turn on two nodes: the longest document that means something."""
    if stage.second is None:
        stage.second = stage.stack.enter_context(node_process("--dram", "1Gi"))
    stage.generation += 1
    nodes = [member(stage.node), member(stage.second)]
    slots = [{"first": at, "last": at, "node": nodes[at % 2]["id"]} for at in range(16_384)]
    return {"epoch": stage.generation, "nodes": nodes, "slots": slots}


def adoption(stage: Stage) -> None:
    stage.fill()
    document = topology(stage)
    stage.text = request(b"KVTIDE.TOPOLOGY", json.dumps(document).encode())


def desired_topology(stage: Stage) -> None:
    stage.fill()
    document = {"term": 1, "generation": stage.generation + 1, "topology": topology(stage)}
    stage.text = json.dumps(document).encode()


def desired_ttls(stage: Stage) -> None:
    stage.fill()
    stage.generation += 1
    groups = {f"{at:016x}": 60.5 for at in range(stage.count(140_000))}
    document = {"term": 1, "generation": stage.generation, "ttl_s": {"groups": groups, "other": 60.0}}
    stage.text = json.dumps(document, separators=(",", ":")).encode()


def desired_junk(stage: Stage) -> None:
    stage.text = b'{"term": 1, "generation": 1, "junk": [' + b"[1]," * stage.count(1_000_000) + b"1]}"


def put_desired(stage: Stage) -> None:
    code, said = stage.node.ask("PUT", "/v1/desired", raw=stage.text)
    assert code in (200, 202, 400, 409, 413), f"/v1/desired answers {code}: {said[:200]!r}"


def trace_line(blocks: int) -> bytes:
    document = {"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": list(range(blocks))}
    return request(b"KVTIDE.TRACE", json.dumps(document).encode())


def longest_line(stage: Stage) -> None:
    stage.text = trace_line(65_536)


def trace_lines(stage: Stage) -> None:
    """Fill the ring with long and short lines."""
    if stage.entries:
        return
    stage.entries = 1
    for blocks, count in ((400, 900), (1, 20_000)):
        said = trace_line(blocks)
        for _ in range(stage.count(count) // 100 + 1):
            stage.client.run(said * 100)


def read_trace(stage: Stage) -> None:
    code, _ = stage.node.ask("GET", "/v1/trace")
    assert code == 200, f"/v1/trace answers {code}"


def shrink(stage: Stage) -> None:
    stage.put("/v1/capacity", {"dram": "1Gi"})
    stage.entries = 0
    stage.fill()


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
    stage.text = request(b"SET", b"large", bytes(stage.count(VALUE_BYTES)))


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


def drain_prepared(stage: Stage) -> None:
    """Two nodes of a cluster; the one that is asked holds everything."""
    stage.entries = 0
    stage.client = Client(stage.node.port, timeout_s=120)
    stage.fill()
    if stage.second is None:
        stage.second = stage.stack.enter_context(node_process("--dram", "1Gi"))
    stage.generation += 1
    nodes = [member(stage.node), member(stage.second)]
    document = {
        "epoch": stage.node.status()["cluster"]["epoch"] + 1,
        "nodes": nodes,
        "slots": [{"first": 0, "last": 16_383, "node": nodes[0]["id"]}],
    }
    for node in (stage.second, stage.node):
        code, said = node.ask(
            "PUT", "/v1/desired", {"term": stage.generation, "generation": 1, "topology": document}
        )
        assert code in (200, 202), f"/v1/desired answers {code}: {said[:200]!r}"


def drain(stage: Stage) -> None:
    code, said = stage.node.ask("POST", "/v1/drain", {"deadline_s": 2.0})
    assert code == 200, f"/v1/drain answers {code}: {said[:200]!r}"


def asked(method: str, path: str, body: object = None, times: int = 1) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        for _ in range(times):
            code, said = stage.node.ask(method, path, body)
            assert code in (200, 202), f"{path} answers {code}: {said[:200]!r}"

    return act


def whole_scan(stage: Stage) -> None:
    cursor = b"0"
    for _ in range(200):
        reply = stage.client.ask(b"SCAN", cursor, b"COUNT", b"10000")
        assert isinstance(reply, list), f"SCAN answers {reply!r}"
        cursor = reply[0] if isinstance(reply[0], bytes) else b"0"
        if cursor == b"0":
            return


def prepare_nothing(stage: Stage) -> None:
    """The case does it all."""


def filled(stage: Stage) -> None:
    stage.fill()


def inline(stage: Stage) -> None:
    stage.text = b"".join([b"PING %d\r\n" % at for at in range(stage.count(10_000))])


CASES: Final = (
    Case("COMMAND INFO get × 1M", words(b"COMMAND", b"INFO", word=b"get")),
    Case("COMMAND DOCS get × 1M", words(b"COMMAND", b"DOCS", word=b"get")),
    Case("CONFIG GET × 1M", words(b"CONFIG", b"GET", word=b"maxm*")),
    Case("INFO section × 1M", words(b"INFO", word=b"memory")),
    Case("HELLO with 1M words", words(b"HELLO", b"3", word=b"SETNAME")),
    Case("unknown command, 1M words", words(b"NOSUCHCOMMAND")),
    Case("MGET of 1M keys, none there", words(b"MGET")),
    Case("MGET of 1M keys, half there", words(b"MGET", filled=True)),
    Case("EXISTS of 1M keys", words(b"EXISTS", filled=True)),
    Case("DEL of 1M keys, none there", words(b"DEL")),
    Case("DEL of 1M keys, half there", emptied(words(b"DEL", filled=True))),
    Case("UNLINK of 1M keys, none there", words(b"UNLINK")),
    Case("MSET of 500k pairs", mset),
    Case("FLUSHALL of 500k", emptied(line(b"FLUSHALL"))),
    Case("FLUSHALL of two tiers", emptied(two_tiers(b"FLUSHALL")), dram="128Mi", ssd=True),
    Case("SCAN 0 COUNT 100000", line(b"SCAN", b"0", b"COUNT", b"100000")),
    Case("SCAN 0 COUNT 10, new each time", line(b"SCAN", b"0")),
    Case(
        "SCAN with a costly MATCH", line(b"SCAN", b"0", b"MATCH", b"*a*b*c*d*e*f*g*h*", b"COUNT", b"100000")
    ),
    Case("a whole iteration", filled, whole_scan),
    Case("SCAN over two tiers", two_tiers(b"SCAN", b"0"), dram="128Mi", ssd=True),
    Case("DBSIZE over two tiers", two_tiers(b"DBSIZE"), dram="128Mi", ssd=True),
    Case("CLUSTER COUNTKEYSINSLOT", line(b"CLUSTER", b"COUNTKEYSINSLOT", b"7")),
    Case("KVTIDE.TOPOLOGY of 16,384 ranges", adoption),
    Case("PUT /v1/desired, topology", desired_topology, put_desired),
    Case("PUT /v1/desired, 4 MiB of groups", desired_ttls, put_desired, dram="128Mi", ssd=True),
    Case("PUT /v1/desired, 4 MiB of junk", desired_junk, put_desired),
    Case("GET /v1/trace, a full ring", trace_lines, read_trace),
    Case("GET /v1/status × 20, 500k entries", filled, asked("GET", "/v1/status", times=20)),
    Case("GET /metrics × 20, 500k entries", filled, asked("GET", "/metrics", times=20)),
    Case("a shrink to 64Mi, 500k entries", shrink, asked("PUT", "/v1/capacity", {"dram": "64Mi"})),
    Case("a drain of 500k entries", drain_prepared, drain),
    Case("EXEC of 4,096 GETs", exec_of(b"GET")),
    Case("EXEC of EXISTS, 4,096 keys", exec_of(b"EXISTS", words=4096)),
    Case("EXEC of DEL, 4,096 keys", emptied(exec_of(b"DEL", words=4096))),
    Case("60 clients, EXEC of 4,000 GETs", crowd_of_execs, run_execs),
    Case("60 clients, 9,000 EXISTS pipelined", pipelines_of_many, run_pipelines),
    Case("DISCARD of 80 MB", discard_prepared),
    Case("1,500 clients reset at once", to_be_reset, resets),
    Case(
        "a shrink of 440 MB, in no order", touched_at_random, asked("PUT", "/v1/capacity", {"dram": "64Mi"})
    ),
    Case("SET of 64 MiB where all is small", small_then_large, dram="256Mi"),
    Case("all of an SSD expires", expiring, expire, dram="128Mi", ssd=True),
    Case("CLIENT LIST, 2,000 clients", clients),
    Case("1,500 clients come and go", prepare_nothing, come_and_go),
    Case("INFO", line(b"INFO")),
    Case("SET of 64 MiB", set_large),
    Case("GET of 64 MiB", get_large),
    Case("10,000 GETs pipelined", pipeline(b"GET", b"one", values=100)),
    Case("10,000 SETs pipelined", pipeline(b"SET", b"one", b"v" * 100)),
    Case("10,000 INFOs pipelined", pipeline(b"INFO")),
    Case("10,000 COMMANDs pipelined", pipeline(b"COMMAND", b"COUNT")),
    Case("10,000 inline commands", inline),
    Case("KVTIDE.TRACE of 65,536 blocks", longest_line),
)
