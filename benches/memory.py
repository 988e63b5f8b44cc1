"""The memory of a node as the kernel counts it, under mixes of entries, against what its cap allows.

    python -m benches.memory [--cap 256Mi] [--connections 16] [--mixes 1,2,3] [--seed N] [--json]

Each mix fills a new node well beyond its cap over several connections while VmRSS (and RssShmem, the part of
it that is the arena) is read from outside every 20 ms. The peak must stay below the cap + 64 MiB + 3 % of the
cap; shards are processes, and so is what keeps them, so there the memory of all is held against 64 MiB each.
The table has the peak, what was left when all was quiet, and what the node itself reports as resident then.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.node_process import MI, NodeProcess, Sampler, node_process, table
from benches.resp_stream import Client, request

from kvtide_cachenode.contract.quantity import parse_quantity

QUIET_S: Final = 1.5
BATCH_BYTES: Final = 64 * 1024
TIMES_CAP: Final = 2.0  # what a mix stores, in units of the cap
ENTRY_BYTES: Final = 600  # about what an entry costs beside its value
POOL_BYTES: Final = 8 * MI


@dataclass(frozen=True)
class Load:
    """What one of the connections of a mix does: its client, its number of all, the node and its cap."""

    client: Client
    number: int
    of: int
    node: NodeProcess
    cap_bytes: int
    rng: random.Random

    def keys(self, name: bytes, value_bytes: float, times_cap: float = TIMES_CAP) -> Iterator[bytes]:
        """This connection's share of the keys that fill the cap so many times with values of that size."""
        count = max(int(times_cap * self.cap_bytes / (value_bytes + ENTRY_BYTES)), 2 * self.of)
        return (b"%b:%08d" % (name, at) for at in range(self.number, count, self.of))

    def set_all(self, keys: Iterator[bytes], length: Callable[[], int]) -> None:
        """Pipelines of SETs with values of these lengths."""
        batch: list[bytes] = []
        held = 0
        for key in keys:
            wanted = length()
            begin = self.rng.randrange(POOL_BYTES)
            if wanted > BATCH_BYTES:
                head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, wanted)
                self.client.run(head, *_long_value(begin, wanted), b"\r\n")
                continue
            batch.append(request(b"SET", key, _pool[begin : begin + wanted]))
            held += wanted + 64
            if held > BATCH_BYTES:
                self.client.run(b"".join(batch))
                batch, held = [], 0
        self.client.run(b"".join(batch))

    def each(self, keys: Iterator[bytes], *words: bytes, depth: int = 20) -> None:
        """One command a key, in pipelines whose replies the kernel has room for or are read meanwhile."""
        batch: list[bytes] = []
        for key in keys:
            batch.append(request(*words, key))
            if len(batch) == depth:
                self.client.run(b"".join(batch))
                batch = []
        self.client.run(b"".join(batch))


_pool: Final = random.Random(0).randbytes(POOL_BYTES + BATCH_BYTES)


def _long_value(begin: int, length: int) -> Iterator[memoryview]:
    view = memoryview(_pool)
    while length:
        piece = view[begin : begin + length]
        yield piece
        length -= len(piece)
        begin = 0


def filled(size: int) -> Callable[[Load], None]:
    def mix(load: Load) -> None:
        load.set_all(load.keys(b"filled", size), lambda: size)

    return mix


def small_then_large(load: Load) -> None:
    load.set_all(load.keys(b"small", 2000), lambda: 2000)
    load.set_all(load.keys(b"large", MI), lambda: MI)


def around_2k(load: Load) -> None:
    load.set_all(load.keys(b"around", 2048), lambda: 2048 + load.rng.randint(-40, 40))


def tier_sized(load: Load) -> None:
    """One value that takes all, over and over, and two at a time."""
    if load.number < 2:
        size = load.cap_bytes - 2 * MI
        for at in range(4):
            load.set_all(iter([b"whole:%d:%d" % (load.number, at)]), lambda: size)


def overwrites(load: Load) -> None:
    """The same keys again and again, with values of any size up to a megabyte."""
    for _ in range(6):
        keys = load.keys(b"again", 100_000, 1)
        load.set_all(keys, lambda: int(2 ** load.rng.uniform(0, 20)))


def deletes(load: Load) -> None:
    for size in (300, 20_000, 2000):
        load.set_all(load.keys(b"deleted:%d" % size, size, 1), lambda size=size: size)  # type: ignore[misc]
        load.each(load.keys(b"deleted:%d" % size, size, 1), b"DEL", depth=500)


def promotions(load: Load) -> None:
    """More than DRAM holds, read again from the SSD."""
    for size in (1000, 30_000, 400_000):
        load.set_all(load.keys(b"below:%d" % size, size), lambda size=size: size)  # type: ignore[misc]
        load.each(load.keys(b"below:%d" % size, size), b"GET", depth=4)


def long_keys(load: Load) -> None:
    names = (key.ljust(15_000, b"k") for key in load.keys(b"long", 15_000))
    load.set_all(names, lambda: 10)
    load.each((key.ljust(15_000, b"m") for key in load.keys(b"never", 15_000, 1)), b"GET")


def mget_heavy(load: Load) -> None:
    load.set_all(load.keys(b"many", 2000, 1), lambda: 2000)
    load.set_all(load.keys(b"more", 16_384, 0.5), lambda: 16_384)
    keys = [*load.keys(b"many", 2000, 1), *load.keys(b"more", 16_384, 0.5)]
    load.rng.shuffle(keys)
    load.client.run(request(b"MGET", *keys[:1000]))
    load.client.run(request(b"MGET", *[keys[0]] * 60_000))


def resized(load: Load) -> None:
    """A shrink to a quarter and back, while it is filled."""
    for share in (4, 1, 3, 1):
        load.set_all(load.keys(b"resized", 5000, 0.5), lambda: load.rng.choice((100, 2000, 9000)))
        if load.number == 0:
            load.node.ask("PUT", "/v1/capacity", {"dram": load.cap_bytes // share})


def everything(load: Load) -> None:
    mixes = [
        filled(10),
        filled(2000),
        around_2k,
        filled(16_384),
        filled(MI),
        overwrites,
        long_keys,
        mget_heavy,
    ]
    load.rng.shuffle(mixes)
    for mix in mixes[:4]:
        mix(load)


@dataclass(frozen=True)
class Mix:
    """A mix and what its node is started with besides the cap."""

    name: str
    work: Callable[[Load], None]
    ssd: bool = False
    shards: int = 1


MIXES: Final = (
    Mix("values of 10 B", filled(10)),
    Mix("values of 2,000 B", filled(2000)),
    Mix("2,000 B, then 1 MiB", small_then_large),
    Mix("2 KiB, a few bytes about", around_2k),
    Mix("values of 16 KiB", filled(16_384)),
    Mix("values of 64 KiB", filled(65_536)),
    Mix("values of 1 MiB", filled(MI)),
    Mix("values of 4 MiB", filled(4 * MI)),
    Mix("values as large as the tier", tier_sized),
    Mix("overwrites of any size", overwrites),
    Mix("deletes and refill", deletes),
    Mix("SSD, promotions", promotions, ssd=True),
    Mix("keys of 15,000 B", long_keys),
    Mix("MGET of many", mget_heavy),
    Mix("shrink and grow", resized),
    Mix("everything, with SSD", everything, ssd=True),
    Mix("everything, 2 shards", everything, shards=2),
)


def measure(mix: Mix, options: argparse.Namespace) -> dict[str, Any]:
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as path:
        started = ["--dram", str(options.cap)]
        if mix.ssd:
            started += ["--ssd", str(8 * options.cap), "--ssd-path", path]
        if mix.shards > 1:
            started += ["--shards", str(mix.shards)]
        with node_process(*started) as node:
            sampler = Sampler(node)
            sampler.start()
            failures = run(mix, node, options)
            time.sleep(QUIET_S)
            sampler.stop()
            reported = sum(
                tier["resident_bytes"] for name, tier in node.status()["tiers"].items() if name == "dram"
            )
            failures += [] if node.running else [f"the node ended with {node.process.returncode}"]
            failures += node.defects()
    limit = options.cap * 1.03 + 64 * MI * sampler.processes
    peak = sampler.peak["VmRSS"]
    return {
        "mix": mix.name,
        "idle_mib": sampler.first["VmRSS"] / MI,
        "peak_mib": peak / MI,
        "of_it_shmem_mib": sampler.peak["RssShmem"] / MI,
        "end_mib": sampler.last["VmRSS"] / MI,
        "reported_mib": reported / MI,
        "limit_mib": limit / MI,
        "over_mib": max(peak - limit, 0) / MI,
        "seconds": time.monotonic() - began_s,
        "failures": failures,
    }


def run(mix: Mix, node: NodeProcess, options: argparse.Namespace) -> list[str]:
    """All connections of a mix until they are done; what went wrong."""
    failures: list[str] = []

    def work(number: int) -> None:
        client = Client(node.ports[number % len(node.ports)], timeout_s=options.silence)
        rng = random.Random(f"{options.seed}-{mix.name}-{number}")
        try:
            mix.work(Load(client, number, options.connections, node, options.cap, rng))
        except OSError as error:
            failures.append(f"connection {number}: {error!r}")
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{at:2} {mix.name}" for at, mix in enumerate(MIXES, 1)),
    )
    parser.add_argument("--cap", type=parse_quantity, default="256Mi")
    parser.add_argument("--connections", type=int, default=16, help="at most 50")
    parser.add_argument("--mixes", help="numbers of the mixes below; all of them by default")
    parser.add_argument(
        "--silence", type=float, default=120.0, help="seconds without a reply that fail a mix"
    )
    parser.add_argument("--directory", type=Path, default=Path(), help="where the SSD tiers lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 0 < options.connections <= 50:
        parser.error(f"--connections {options.connections} is not between 1 and 50")
    wanted = MIXES if options.mixes is None else [MIXES[int(at) - 1] for at in options.mixes.split(",")]
    rows = []
    for mix in wanted:
        print(f"{mix.name} …", file=sys.stderr, flush=True)
        rows.append(measure(mix, options))
        print("  peak {peak_mib:.1f} of {limit_mib:.1f} MiB".format(**rows[-1]), file=sys.stderr, flush=True)
        for failure in rows[-1]["failures"][:5]:
            print(f"  {failure}", file=sys.stderr, flush=True)
    good = not any(row["over_mib"] or row["failures"] for row in rows)
    if options.json:
        print(json.dumps({"cap_bytes": options.cap, "good": good, "mixes": rows}, indent=2))
    else:
        head = [name for name in rows[0] if name != "failures"]
        print(table(head, [[row[name] for name in head] for row in rows]))
        print("met" if good else "not met")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
