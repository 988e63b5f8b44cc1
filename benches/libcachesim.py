"""LRU hits block by block: our stack distances and our DRAM pass against libcachesim's LRU.

    python -m benches.libcachesim TRACE [--blocks N,N,...] [--python PATH] [--json]

libcachesim, a Python package, is no dependency of kvtide. Where it is not installed
beside it, ``--python`` names an interpreter that has it and numpy. Every count must be equal; if one is not,
the exit code is 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.cache.passes import cache_pass
from kvtide_operator.simulate.cache.pool import empty_pool
from kvtide_operator.simulate.cache.stack_distance import stack_distances
from kvtide_operator.simulate.requests import requests_of
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

CAPACITIES = (1, 100, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)
THEIRS = """
import json, sys
import numpy as np
from benches.libcachesim import LRU, Request
blocks = np.load(sys.argv[1]).tolist()
hits = []
for capacity in map(int, sys.argv[2:]):
    lru, request = LRU(cache_size=capacity), Request()
    request.obj_size = 1
    count = 0
    for block in blocks:
        request.obj_id = block
        count += lru.get(request)
    hits.append(count)
print(json.dumps(hits))
"""


def by_distance(trace: Trace, capacity: int) -> int:
    return int((stack_distances(trace.blocks, trace.unique_blocks) <= capacity).sum())


def by_pass(trace: Trace, capacity: int) -> int:
    """Accesses that DRAM hit, of the pass that every plan rests on, without GPU caches before it.

    The pass looks a request up as a whole before it inserts it, libcachesim one block at a time. So every
    access is played as a request of its own.
    """
    alone = replace(
        trace,
        arrival_s=np.arange(len(trace.blocks), dtype=np.float64),
        input_tokens=np.full(len(trace.blocks), trace.block_tokens, dtype=np.int32),
        output_tokens=np.ones(len(trace.blocks), dtype=np.int32),
        block_start=np.arange(len(trace.blocks) + 1),
        weight=np.ones(len(trace.blocks)),
        hit_blocks=None,
    )
    requests = requests_of(alone, "mooncake")
    pool = empty_pool(requests, 1, 0, capacity, "writeThrough", "roundRobin")
    return int(cache_pass(requests, pool).pool.in_dram.sum())


def by_libcachesim(python: str, blocks: NDArray[np.int32], capacities: list[int]) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blocks.npy"
        np.save(file, blocks)
        command = [python, "-I", "-c", THEIRS, str(file), *map(str, capacities)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise SystemExit(f"{python}: {reason}; name an interpreter with libcachesim and numpy: --python PATH")
    hits: list[int] = json.loads(done.stdout)
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--blocks", type=lambda text: [int(n) for n in text.split(",")], default=CAPACITIES)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trace = read_trace(options.trace)
    theirs = by_libcachesim(options.python, trace.blocks, list(options.blocks))
    rows = [
        {
            "capacity_blocks": capacity,
            "stack_distance_hits": by_distance(trace, capacity),
            "dram_pass_hits": by_pass(trace, capacity),
            "libcachesim_hits": count,
        }
        for capacity, count in zip(options.blocks, theirs, strict=True)
    ]
    equal = all(len(set(list(row.values())[1:])) == 1 for row in rows)
    if options.json:
        print(json.dumps({"accesses": len(trace.blocks), "rows": rows, "equal": equal}))
    else:
        print(f"{len(trace.blocks):,} accesses to {trace.unique_blocks:,} blocks; hits of")
        print("capacity, blocks  stack distance  DRAM pass  libcachesim")
        for row in rows:
            print("{:>16,}  {:>14,}  {:>9,}  {:>11,}".format(*row.values()))
        print("all equal" if equal else "NOT EQUAL")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
