"""How long one client's command, or one admin request, keeps another client's PING waiting.

    python -m benches.waits [--scale 1.0] [--rounds 3] [--cases 1,2,3] [--seed N] [--json]

A process of its own sends PINGs on one connection, one every half millisecond or so, and keeps the longest
time that one took: first while the node is idle, as long as the case then takes (half a second at least),
then while the case runs. ``wait_ms`` is the difference, the median of the rounds. On a busy machine that
tells of the machine; so beside it stand the longest turns of the node's event loop in processor time (the
largest of the rounds): of the thread that serves, and of all threads. A PING waits for two turns at most,
the one under way and its own. The wait must be at most 50 ms, by the clock or by two turns.
--scale makes keys, words and bytes fewer.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, Final

from benches.node_process import node_process, raise_file_limit, table
from benches.resp_stream import connect
from benches.timed_node import LONGEST, Turns
from benches.waits_cases import CASES
from benches.waits_stage import Case, Stage

WANTED_MS: Final = 50.0
PAUSE_S: Final = 0.0005
AT_LEAST_S: Final = 0.5


def probe(port: int, orders: Connection) -> None:
    """PING from the word "begin" until the word "end", then say what was longest; None ends the process."""
    client = connect(port, 120)
    while orders.recv() is not None:
        longest_s = 0.0
        while not orders.poll():
            began_s = time.monotonic()
            client.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = client.recv(100)
            longest_s = max(longest_s, time.monotonic() - began_s)
            assert answer == b"+PONG\r\n", f"PING is answered with {answer!r}"
            time.sleep(PAUSE_S)
        orders.recv()
        orders.send(longest_s)


def longest_while(
    orders: Connection, work: "Case | None", stage: Stage, seconds: float
) -> tuple[float, float]:
    orders.send("begin")
    time.sleep(0.05)  # some PINGs before
    began_s = time.monotonic()
    if work is None:
        time.sleep(seconds)
    else:
        work.act(stage)
    took_s = time.monotonic() - began_s
    time.sleep(0.05)
    orders.send("end")
    if not orders.poll(120):
        raise TimeoutError("the PINGs are not answered any more")
    longest_s: float = orders.recv()
    return longest_s, took_s


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    waits: list[float] = []
    turns_s: list[tuple[float, float]] = []
    idle_ms, took_s = 0.0, AT_LEAST_S
    problem = ""
    with ExitStack() as stack:
        path = stack.enter_context(TemporaryDirectory(dir=options.directory))
        started = ["--dram", case.dram, *(["--ssd", "1Gi", "--ssd-path", path] if case.ssd else [])]
        told = stack.enter_context(NamedTemporaryFile())
        told.write(bytes(LONGEST.size))
        told.flush()
        turns = Turns(Path(told.name))
        node = stack.enter_context(node_process(*started, program=("benches.timed_node", told.name)))
        stage = Stage(node, options.scale, stack)
        orders, theirs = multiprocessing.Pipe()
        prober = multiprocessing.Process(target=probe, args=(node.port, theirs), daemon=True)
        prober.start()
        stack.callback(prober.kill)
        try:
            for _ in range(options.rounds):
                case.prepare(stage)
                idle_s, _ = longest_while(orders, None, stage, max(took_s, AT_LEAST_S))
                turns.take()
                busy_s, took_s = longest_while(orders, case, stage, 0)
                turns_s.append(turns.take())
                idle_ms = max(idle_ms, 1e3 * idle_s)
                waits.append(1e3 * (busy_s - idle_s))
            orders.send(None)
        except (OSError, AssertionError) as error:
            problem = f"{type(error).__name__}: {error}"[:200]
    wait_ms = statistics.median(waits) if waits else float("nan")
    turn_ms, all_ms = (1e3 * max(longest) for longest in zip(*turns_s or [(float("nan"),) * 2], strict=True))
    return {
        "case": case.name,
        "wait_ms": wait_ms,
        "turn_ms": turn_ms,
        "all_threads_ms": all_ms,
        "idle_max_ms": idle_ms,
        "case_took_s": took_s,
        "good": not problem and min(wait_ms, 2 * turn_ms) <= WANTED_MS,
        "problem": problem,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{at:2} {case.name}" for at, case in enumerate(CASES, 1)),
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of keys, words and bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", help="numbers of those below; all of them by default")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the SSD tiers lie")
    parser.add_argument("--seed", type=int, default=0, help="nothing here is drawn by chance")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    raise_file_limit()
    wanted = CASES if options.cases is None else [CASES[int(at) - 1] for at in options.cases.split(",")]
    rows = []
    for case in wanted:
        rows.append(measure(case, options))
        row = rows[-1]
        print(
            f"{case.name}: {row['wait_ms']:.1f} ms, a turn {row['turn_ms']:.1f} ms {row['problem']}",
            file=sys.stderr,
            flush=True,
        )
    good = all(row["good"] for row in rows)
    if options.json:
        print(json.dumps({"good": good, "scale": options.scale, "rows": rows}, indent=2))
    else:
        print(table(list(rows[0]), [list(row.values()) for row in rows]))
        print("met" if good else "not met")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
