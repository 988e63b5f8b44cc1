"""What nodes infer of requests that LMCache's clients and SGLang's backend make, against what was sent.

    python -m benches.inferred_traces

Accesses are those of engines with ranks, pools and overlapping requests, in virtual time. Each row is the
worst of three loads: 1 and 5 requests a second from one engine, 9 from three.
"""

from typing import Final

from benches.engine_streams import Fleet, Habit, lines_of

from kvtide_cachenode.access_trace.ring import TraceRing
from kvtide_operator.workload.readers.node import read_node_lines

REQUESTS = 300
LOADS = ((1.0, 1), (5.0, 1), (9.0, 3))
FLEETS: Final[list[tuple[Habit, int, int]]] = [
    ("redis", 1, 1), ("redis", 1, 8), ("redis", 2, 8), ("redis", 8, 16),
    ("lm", 1, 1), ("lm", 8, 8), ("sglang", 1, 4), ("sglang", 4, 4), ("resp", 1, 8),
]  # fmt: skip


def main() -> None:
    """Print a table."""
    print("| client | ranks | pool | nodes | lines | hit ratio | reuse |")
    print("|---|---|---|---|---|---|---|")
    for nodes in (1, 2, 4):
        for habit, ranks, pool in FLEETS:
            loads = [_errors(Fleet(habit, ranks, pool, nodes, engines), rate) for rate, engines in LOADS]
            if None in loads:
                print(f"| {habit} | {ranks} | {pool} | {nodes} | **left out as unreliable** | | |")
                continue
            worst = [max(errors, key=abs) for errors in zip(*filter(None, loads), strict=True)]
            said = " | ".join(
                f"{error:+.1%}" if abs(error) <= 0.02 else f"**{error:+.1%}**" for error in worst
            )
            print(f"| {habit} | {ranks} | {pool} | {nodes} | {said} |", flush=True)


def _errors(fleet: Fleet, rate: float) -> tuple[float, float, float] | None:
    """How far off the count of lines, the hit ratio and the reuse are, relative to what was sent.

    None where most lines are left out as unreliable.
    """
    sent, told = lines_of(fleet, REQUESTS, rate=rate)
    doubts = [line.doubt for lines in told for line in lines if line.doubt != "stores"]
    if doubts.count(None) < len(doubts) / 2:
        return None
    exported = b""
    for node, lines in enumerate(told):
        ring = TraceRing(f"node-{node}")
        for line in lines:
            ring.append_inferred(line, 16)
        exported += ring.read(None).lines
    trace = read_node_lines(exported, block_tokens=16)
    assert trace is not None
    assert trace.hit_blocks is not None
    asked, seen = sum(len(request.blocks) for request in sent), len(trace.blocks)
    hit_ratio = sum(fleet.hits.values()) / asked
    reuse = 1 - len({block for request in sent for block in request.blocks}) / asked
    return (
        trace.requests / len(sent) - 1,
        float(trace.hit_blocks.sum()) / seen / hit_ratio - 1,
        (1 - trace.unique_blocks / seen) / reuse - 1,
    )


if __name__ == "__main__":
    main()
