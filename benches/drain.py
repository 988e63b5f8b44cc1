"""Drain of one of three nodes whose working set fits in two: the hit ratio before and after, and what stayed.

    python -m benches.drain [--json]

Three nodes hold Zipf-distributed blocks far beyond what is asked for often; a client that knows no cluster
reads through one node and stores what it misses, as an engine does. When the hit ratio has settled, one node
is drained and ended, and the same client goes on. `prefix_hit_ratio` is of single blocks here: a request is
one block.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import redis

from kvtide_cachenode.cluster.shares import first_topology
from kvtide_cachenode.cluster.topology import Node

MIB = 1 << 20
BLOCK_BYTES = 256 * 1024
NODE_BYTES = 96 * MIB
HOT_BLOCKS = 500  # 125 MiB: fits in two nodes, not in one
COLD_SHARE = 0.02  # of the requests, each for a block that is never asked for again
WANTED = 0.01


@contextmanager
def node() -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", str(NODE_BYTES)]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield process, int(said["listen"].rpartition(":")[2]), said["admin"]
        finally:
            process.terminate()
            process.wait()


def ask(admin: str, method: str, path: str, document: object = None) -> Any:
    body = None if document is None else msgspec.json.encode(document)
    request = urllib.request.Request(f"http://{admin}{path}", method=method, data=body)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.loads(reply.read())


def blocks(seed: int) -> Iterator[str]:
    """Keys of an endless workload: popular blocks by rank, and one-hit wonders in between."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.6 for rank in range(HOT_BLOCKS)))
    for number in itertools.count():
        if chance.random() < COLD_SHARE:
            yield f"cold:{number}"
        else:
            yield f"hot:{chance.choices(range(HOT_BLOCKS), cum_weights=weights)[0]}"


def hit_ratio(client: redis.Redis, keys: Iterator[str], count: int, payload: bytes) -> float:
    """Of ``count`` requests, how many found their block; a miss is computed and stored."""
    hits = 0
    for key in itertools.islice(keys, count):
        value = client.get(key)
        if value is None:
            client.set(key, key.encode().ljust(64) + payload)
        else:
            assert value[:64].rstrip() == key.encode(), "a wrong value"
            assert value[64:] == payload, "a wrong byte"
            hits += 1
    return hits / count


def measure(requests: int, seed: int) -> dict[str, float]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(node()) for _ in range(3)]
        members = [
            Node(ask(admin, "GET", "/v1/status")["cluster"]["node_id"], "127.0.0.1", port, NODE_BYTES)
            for _, port, admin in nodes
        ]
        topology = first_topology(members)
        for _, _, admin in nodes:
            ask(admin, "PUT", "/v1/desired", {"term": 1, "generation": 1, "topology": topology})
        client = stack.enter_context(redis.Redis(port=nodes[0][1]))
        keys, payload = blocks(seed), random.Random(seed).randbytes(BLOCK_BYTES - 64)
        hit_ratio(client, keys, 2 * requests, payload)
        before = hit_ratio(client, keys, requests, payload)
        process, _, admin = nodes[2]
        drained = ask(admin, "POST", "/v1/drain", {"deadline_s": 60})
        process.terminate()
        process.wait()
        after = hit_ratio(client, keys, requests, payload)
    return {
        "hit_ratio_before": before,
        "hit_ratio_after": after,
        "difference": after - before,
        "moved_entries": drained["moved_entries"],
        "left_entries": drained["left_entries"],
        "moved_mb_s": drained["moved_bytes"] / 1e6 / drained["elapsed_s"],
        "drain_s": drained["elapsed_s"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began_s = time.monotonic()
    rows = [measure(options.requests, seed) for seed in range(options.rounds)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    worst = max(abs(row["difference"]) for row in rows)
    print(f"worst difference {worst:.4f}, wanted at most {WANTED}; {time.monotonic() - began_s:.0f} s")
    return int(worst > WANTED)


if __name__ == "__main__":
    sys.exit(main())
