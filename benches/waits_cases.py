"""What may keep other clients waiting: how each case is prepared, and what it then does in one go."""

import json
from collections.abc import Callable
from typing import Any, Final

from benches.node_process import MI, NodeProcess, node_process
from benches.resp_stream import Client, connect, request
from benches.waits_crowds import (
    crowd_of_execs,
    discard_prepared,
    exec_of,
    expire,
    expiring,
    pipelines_of_many,
    resets,
    run_execs,
    run_pipelines,
    small_then_large,
    to_be_reset,
    touched_at_random,
)
from benches.waits_stage import Case, Stage

WORDS: Final = 1_000_000
VALUE_BYTES: Final = 64 * MI


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
