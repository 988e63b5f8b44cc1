"""How long one client's command, or one admin request, keeps another client's PING waiting.

    python -m benches.waits [--scale 1.0] [--rounds 3] [--cases 1,2,3] [--seed N] [--json]

A process of its own sends PINGs on one connection, one every half millisecond or so, and keeps the longest
time that one took: first while the node is idle, as long as the case then takes (half a second at least),
then while the case runs. The figure is the difference, the median of the rounds, and must be at most 50 ms.
Beside it stands the processor time that the node itself spent during the worst PING, which a busy machine
does not blur. --scale makes keys, words and bytes fewer.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benches.node_process import node_process, raise_file_limit, table
from benches.resp_stream import connect
from benches.waits_cases import CASES, Case, Stage

WANTED_MS: Final = 50.0
PAUSE_S: Final = 0.0005
AT_LEAST_S: Final = 0.5


@dataclass(frozen=True)
class Longest:
    """The longest PING of a while, and the node's processor time within it."""

    wait_s: float
    cpu_s: float


def processor_s(pid: int) -> float:
    """Of the node's first thread, which is the one that serves."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def probe(port: int, pid: int, orders: Connection) -> None:
    """PING from the word "begin" until the word "end", then say what was longest; None ends the process."""
    client = connect(port, 120)
    while orders.recv() is not None:
        longest = Longest(0.0, 0.0)
        while not orders.poll():
            cpu_s, began_s = processor_s(pid), time.monotonic()
            client.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = client.recv(100)
            wait_s = time.monotonic() - began_s
            assert answer == b"+PONG\r\n", f"PING is answered with {answer!r}"
            if wait_s > longest.wait_s:
                longest = Longest(wait_s, processor_s(pid) - cpu_s)
            time.sleep(PAUSE_S)
        orders.recv()
        orders.send(longest)


def longest_while(
    orders: Connection, work: "Case | None", stage: Stage, seconds: float
) -> tuple[Longest, float]:
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
    longest: Longest = orders.recv()
    return longest, took_s


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    waits: list[float] = []
    cpu: list[float] = []
    idle_ms, took_s = 0.0, AT_LEAST_S
    problem = ""
    with ExitStack() as stack:
        path = stack.enter_context(TemporaryDirectory(dir=options.directory))
        started = ["--dram", case.dram, *(["--ssd", "1Gi", "--ssd-path", path] if case.ssd else [])]
        node = stack.enter_context(node_process(*started))
        stage = Stage(node, options.scale, stack)
        orders, theirs = multiprocessing.Pipe()
        prober = multiprocessing.Process(target=probe, args=(node.port, node.pid, theirs), daemon=True)
        prober.start()
        stack.callback(prober.kill)
        try:
            for _ in range(options.rounds):
                case.prepare(stage)
                idle, _ = longest_while(orders, None, stage, max(took_s, AT_LEAST_S))
                busy, took_s = longest_while(orders, case, stage, 0)
                idle_ms = max(idle_ms, 1e3 * idle.wait_s)
                waits.append(1e3 * (busy.wait_s - idle.wait_s))
                cpu.append(1e3 * busy.cpu_s)
            orders.send(None)
        except (OSError, AssertionError) as error:
            problem = f"{type(error).__name__}: {error}"[:200]
    wait_ms = statistics.median(waits) if waits else float("nan")
    return {
        "case": case.name,
        "wait_ms": wait_ms,
        "node_cpu_ms": statistics.median(cpu) if cpu else float("nan"),
        "idle_max_ms": idle_ms,
        "case_took_s": took_s,
        "good": not problem and wait_ms <= WANTED_MS,
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
            f"{case.name}: {row['wait_ms']:.1f} ms, node {row['node_cpu_ms']:.1f} ms {row['problem']}",
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
