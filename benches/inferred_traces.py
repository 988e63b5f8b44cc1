"""What nodes infer of requests that LMCache's clients and SGLang's backend make, against what was sent.

    python -m benches.inferred_traces

Accesses are those of engines with ranks, pools and overlapping requests, in virtual time.
"""

from typing import Final

from benches.engine_streams import Fleet, Habit, lines_of

from kvtide_cachenode.access_trace import TraceRing
from kvtide_operator.workload.readers.node import read_node_lines

REQUESTS = 300
FLEETS: Final[list[tuple[Habit, int, int]]] = [
    ("redis", 1, 1), ("redis", 1, 8), ("redis", 2, 8), ("redis", 8, 16),
    ("lm", 1, 1), ("lm", 8, 8), ("resp", 1, 8), ("sglang", 1, 4), ("sglang", 4, 4),
]  # fmt: skip


def main() -> None:
    """Print a table."""
    print("| client | ranks | pool | nodes | engines | requests/s | lines | hit ratio | reuse |")
    print("|---|---|---|---|---|---|---|---|---|")
    for nodes in (1, 2, 4):
        for habit, ranks, pool in FLEETS:
            for rate, engines in ((1.0, 1), (5.0, 1), (9.0, 3)):
                fleet = Fleet(habit, ranks, pool, nodes, engines)
                print(_row(fleet, rate))


def _row(fleet: Fleet, rate: float) -> str:
    sent, told = lines_of(fleet, REQUESTS, rate=rate)
    exported = b""
    for node, lines in enumerate(told):
        ring = TraceRing(f"node-{node}")
        for line in lines:
            ring.append_inferred(line, 16)
        exported += ring.read(None).lines
    trace = read_node_lines(exported, block_tokens=16)
    assert trace is not None
    assert trace.hit_blocks is not None
    asked = sum(len(request.blocks) for request in sent)
    unique = len({block for request in sent for block in request.blocks})
    seen = len(trace.blocks)
    return (
        f"| {fleet.habit} | {fleet.ranks} | {fleet.pool} | {fleet.nodes} | {fleet.engines} | {rate:g}"
        f" | {len(sent)} → {trace.requests}"
        f" | {sum(fleet.hits.values()) / asked:.3f} → {trace.hit_blocks.sum() / seen:.3f}"
        f" | {1 - unique / asked:.3f} → {1 - trace.unique_blocks / seen:.3f} |"
    )


if __name__ == "__main__":
    main()
