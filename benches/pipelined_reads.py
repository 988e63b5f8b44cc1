"""Eight pipelined GETs of values on the SSD against one MGET of the eight.

    python -m benches.pipelined_reads [--sizes 64Ki,1Mi,4Mi] [--rounds 15] --directory DIR [--json]

The node's DRAM holds a small part of the values, which are read in their order again and again, so that all
are read from the SSD. In each round both ways read the same number of values, one after the other.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benches.node_process import MI, node_process, table
from benches.resp_stream import Client, request

from kvtide_cachenode.contract.quantity import format_quantity, parse_quantity

TOGETHER: Final = 8
AT_MOST: Final = 1.2
BATCHES: Final = 4  # of each way in a round
PASSES: Final = 20
FILL_BYTES_PER_S: Final = 200 * MI


def fill(client: Client, keys: list[bytes], value: bytes) -> None:
    """Store all; what the SSD did not take in time once more."""
    for _ in range(PASSES):
        missing = [key for key in keys if client.ask(b"STRLEN", key) != len(value)]
        if not missing:
            return
        for key in missing:
            client.ask(b"SET", key, value)
            time.sleep(len(value) / FILL_BYTES_PER_S)
    raise RuntimeError("the SSD does not keep all values")


def took_s(client: Client, command: bytes, reply_bytes: int) -> float:
    buffer = memoryview(bytearray(1 << 20))
    began_s, left = time.perf_counter(), reply_bytes
    client.socket.sendall(command)
    while left:
        left -= client.socket.recv_into(buffer[: min(left, len(buffer))])
    return time.perf_counter() - began_s


def measure(size: int, rounds: int, directory: Path) -> dict[str, Any]:
    dram = max(32 * MI, 16 * TOGETHER * size)
    count = max(4 * dram // size // TOGETHER, 16) * TOGETHER
    value = random.Random(1).randbytes(size)
    keys = [b"key-%06d" % at for at in range(count)]
    batches = [keys[at : at + TOGETHER] for at in range(0, count, TOGETHER)]
    one = len(b"$%d\r\n" % size) + size + 2
    ways = {
        "mget": (lambda batch: request(b"MGET", *batch), len(b"*%d\r\n" % TOGETHER) + TOGETHER * one),
        "gets": (lambda batch: b"".join(request(b"GET", key) for key in batch), TOGETHER * one),
    }
    with tempfile.TemporaryDirectory(dir=directory) as path:
        tiers = ("--dram", str(dram), "--ssd", str(2 * count * size + 256 * MI), "--ssd-path", path)
        with node_process(*tiers) as node:
            client = Client(node.port)
            fill(client, keys, value)
            before = node.status()["counters"]["promoted"]
            at, ratios, medians = 0, [], {name: [] for name in ways}
            for round_ in range(rounds):
                spent = dict.fromkeys(ways, 0.0)
                for name in sorted(ways, reverse=bool(round_ % 2)):
                    encoded, reply_bytes = ways[name]
                    for _ in range(BATCHES):
                        spent[name] += took_s(client, encoded(batches[at % len(batches)]), reply_bytes)
                        at += 1
                    medians[name].append(spent[name] / BATCHES)
                ratios.append(spent["gets"] / spent["mget"])
            promoted = node.status()["counters"]["promoted"] - before
            client.close()
    return {
        "size": format_quantity(size),
        "gets_over_mget": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "mget_ms": 1e3 * statistics.median(medians["mget"]),
        "gets_ms": 1e3 * statistics.median(medians["gets"]),
        "from_ssd": promoted / (2 * rounds * BATCHES * TOGETHER),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="64Ki,1Mi,4Mi")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, required=True, help="on a file system with direct I/O")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(parse_quantity(size)) for size in options.sizes.split(",")]
    rows = [measure(size, options.rounds, options.directory) for size in sizes]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        shown = [
            [f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows
        ]
        print(table(list(rows[0]), shown))
    return 0 if all(row["gets_over_mget"] <= AT_MOST for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
