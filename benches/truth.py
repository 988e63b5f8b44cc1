"""Right answers, in order, whatever happens: random commands against small nodes that change their size.

    python -m benches.truth [--commands 1000000] [--connections 50] [--dram 1Mi,16Mi,64Mi] [--seed N] [--json]

Nodes with an SSD are served one after the other, each with its share of the commands. Connections pipeline
SET (plain, NX, XX, GET), SETNX, MSET, GET, MGET, GETDEL, DEL, EXISTS, STRLEN, SCAN, PING and ECHO with marks
and wrong commands; others announce values and stall, die in the middle, or read slowly. A value says whose it
is and is compared whole. Own keys of a connection must have what it wrote last, or nothing; keys that all
connections share must behave as linearisable registers that may forget. Counted are replies out of order,
wrong values, lost replies, errors where none is due, and exceptions in the node's log and metrics: all 0.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from benches.node_process import node_process, table
from benches.resp_stream import Client, request
from benches.truth_run import World, resize, show, work
from benches.truth_stall import stall

from kvtide_cachenode.contract.quantity import parse_quantity

BAD = ("out_of_order", "wrong", "lost", "errors", "defects")
STALLING = 4
PARTS = ("long", "large", "stalling", "resizes", "scans")


async def talk_to(world: World, options: argparse.Namespace, dram_bytes: int, title: str) -> None:
    stop, without = asyncio.Event(), options.without.split(",")
    stalling = 0 if "stalling" in without else STALLING
    beside = [asyncio.create_task(stall(world, number, stop)) for number in range(stalling)]
    beside.append(asyncio.create_task(show(world, title, stop)))
    if "resizes" not in without:
        beside.append(asyncio.create_task(resize(world, dram_bytes, options.ssd, stop)))
    try:
        await asyncio.gather(*(work(world, number) for number in range(options.connections)))
    finally:
        stop.set()
        for done in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(done, BaseException):
                world.findings.add("errors", f"a stalling connection: {done!r}")


def read_all(world: World) -> None:
    """When all is quiet, every key has what it may have."""
    client = Client(world.node.port)
    for key in world.last_keys():
        began = world.clock()
        value = client.ask(b"GET", key.name)
        if value is None or type(value) is bytes:
            problem = key.read(value, began, world.clock())
            if problem is not None:
                world.findings.add("wrong", f"at the end: {problem}")
    client.socket.sendall(request(b"QUIT"))
    client.close()


def measure(dram: str, options: argparse.Namespace, commands: int, seed: int) -> dict[str, Any]:
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        ssd = ["--ssd", str(options.ssd), "--ssd-path", path]
        with node_process("--dram", dram, *ssd) as node:
            world = World(node, commands, seed, options.without.split(","))
            uvloop.run(talk_to(world, options, parse_quantity(dram), dram))
            if node.running:
                read_all(world)
            else:
                world.findings.add("defects", f"the node ended with {node.process.returncode}")
            for key in [*world.shared, *world.large_keys]:
                for sentence in key.contradictions():
                    world.findings.add("wrong", sentence)
            for line in node.defects() if node.running else []:
                world.findings.add("defects", line)
            counts = world.findings.counts
            return {
                "dram": dram,
                "commands": world.done,
                **{kind: counts[kind] for kind in BAD},
                "hits": sum(script.hits for script in world.scripts),
                "nils": sum(script.nils for script in world.scripts),
                "no_room": sum(script.out_of_memory for script in world.scripts),
                "came_back": sum(key.came_back for key in world.private),
                "resizes": world.resizes,
                "stalls": world.stalls,
                "seconds": time.monotonic() - began_s,
                "findings": world.findings.sentences,
            }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", type=int, default=1_000_000, help="of all nodes together")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--without", default="", help=f"to find a cause: some of {','.join(PARTS)}")
    parser.add_argument("--dram", default="1Mi,16Mi,64Mi", help="a node for each of these sizes")
    parser.add_argument("--ssd", type=parse_quantity, default="256Mi")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the SSD tiers lie")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    unknown = set(filter(None, options.without.split(","))) - {*PARTS}
    if unknown:
        parser.error(f"--without: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    print(f"seed {options.seed}", file=sys.stderr)
    sizes = options.dram.split(",")
    rows = [
        measure(dram, options, options.commands // len(sizes), options.seed + at)
        for at, dram in enumerate(sizes)
    ]
    good = not any(row[kind] for row in rows for kind in BAD)
    if options.json:
        print(json.dumps({"seed": options.seed, "good": good, "nodes": rows}, indent=2))
    else:
        head = [name for name in rows[0] if name != "findings"]
        print(table(head, [[row[name] for name in head] for row in rows]))
        print("met" if good else f"not met: see above; again with --seed {options.seed}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
