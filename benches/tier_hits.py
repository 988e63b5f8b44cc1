"""Hit ratios per tier: the simulator against a real node with DRAM and SSD.

    python -m benches.tier_hits TRACE [--requests 2000] [--speed 16] [--block-bytes 64Ki] [--json]

Each configuration plays the first requests of the trace through one node, whose TTL is the trace's divided
by the speed, and simulates the same without engines: no GPU cache, steps and transfers that take next to no
time. One thing is not what is compared, and the simulator is given what was measured of it: when each request
really began, since a busy machine falls behind the pace. The exit code is 1 if a tier, or both together,
differ by more than 0.01.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.messages import Desired, IdleTimeouts
from kvtide_cachenode.contract.sizing import SSD_ENTRY_BYTES
from kvtide_cachenode.store.arena import extent_bytes
from kvtide_cachenode.store.room import ENTRY_OVERHEAD_BYTES
from kvtide_operator.api.quantity import parse_quantity
from kvtide_operator.replay.blocks import key_of
from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.targets import parse_targets
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.profile import EngineProfile
from kvtide_operator.simulate.engine.step_times import Curve, Surface, step_tables
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import Ladder, Price
from kvtide_operator.simulate.scenario import Scenario, SsdClass
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

CONFIGURATIONS = (
    (1_500, 60.0),
    (1_500, 300.0),
    (5_000, 120.0),
)  # DRAM in blocks, TTL in seconds of the trace
SSD_BYTES = 24 << 30  # more than is ever written
STEP_S = 1e-4  # of the simulated engine, so that a request begins when it arrives
INSTANTLY_BYTES_S = 1e18
WANTED = 0.01
TIERS = ("dram", "ssd", "total")
COUNTED = ("demoted", "demotions_dropped", "demotions_refused", "streamed")
TOLD = ("errors", "wrong_bytes", "wall_s", "behind_max_s", *COUNTED)


@dataclass(frozen=True, slots=True)
class Hits:
    """Blocks hit in each tier / blocks requested."""

    dram: float
    ssd: float

    @property
    def total(self) -> float:
        return self.dram + self.ssd


def entry_bytes(block_bytes: int) -> int:
    """What a node charges DRAM for a block."""
    return extent_bytes(block_bytes) + ENTRY_OVERHEAD_BYTES + len(key_of(100_000))


@contextmanager
def node(dram_bytes: int) -> Iterator[tuple[str, str]]:
    """A node with both tiers: where it serves, and the URL of its admin API."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "kvtide_cachenode", "serve", "--dram", str(dram_bytes)]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        command += ["--ssd", str(SSD_BYTES), "--ssd-path", directory]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                assert process.stdout is not None
                said = json.loads(process.stdout.readline())
                yield said["listen"], f"http://{said['admin']}"
            finally:
                process.kill()


async def played(
    trace: Trace, dram_bytes: int, ttl_s: float, block_bytes: int, speed: float
) -> tuple[Hits, list[float], dict[str, float]]:
    """What a node hits, when each request began (seconds of the trace), and what else tells of the run."""
    began_s: list[float] = []

    def clock() -> float:
        """Called once at the beginning of each request."""
        began_s.append(time.perf_counter() * speed)
        return time.time()

    with node(dram_bytes) as (address, admin):
        async with NodeClient(admin) as client:
            await client.set_desired(Desired(1, 1, ttl_s=IdleTimeouts(other=ttl_s / speed)))
            options = ReplayOptions(block_bytes, speed, report_requests=False, clock=clock)
            report = await replay(trace, parse_targets(address), options)
            counted = (await client.status()).counters
    ssd_hits = counted["promoted"] + counted["streamed"]
    assert report.behind_max_s is not None
    told = {
        "errors": report.errors,
        "wrong_bytes": report.wrong_bytes,
        "wall_s": report.wall_s,
        "behind_max_s": report.behind_max_s,
        **{name: counted[name] for name in COUNTED},
    }
    hits = Hits((report.blocks_hit - ssd_hits) / report.blocks_requested, ssd_hits / report.blocks_requested)
    return hits, [at_s - began_s[0] for at_s in began_s], told


def simulated(trace: Trace, dram_bytes: int, ttl_s: float, block_bytes: int) -> Hits:
    """What the simulator says of one engine without a cache of its own, whose steps take `STEP_S`."""
    token_bytes = -(-block_bytes // trace.block_tokens)
    free = Price("USD", Ladder.up_to("price.capacity", [(None, Decimal("0.001"))]))
    axis, nothing = np.array([1.0, 2.0]), np.zeros((2, 2))
    profile = EngineProfile(
        model="none",
        system="none",
        engine="none",
        engine_version="none",
        gpus=1,
        layers=1,
        kv_capacity_tokens=1 << 24,
        source="benches/tier_hits.py",
        date="2026-11-21",
        tables=step_tables(
            Curve(axis, np.full(2, STEP_S)), Surface(axis, axis, nothing), Surface(axis, axis, nothing)
        ),
    )
    bandwidth = Bandwidth(INSTANTLY_BYTES_S)
    scenario = Scenario(
        trace=trace,
        profile=profile,
        kv_bytes_per_token=token_bytes,
        dram_compression=token_bytes * trace.block_tokens / entry_bytes(block_bytes),
        ssd_index_bytes=SSD_ENTRY_BYTES,
        dram_price=free,
        gpu_hour=1.0,
        ssd_classes={"ssd": SsdClass(free, MediumSpeed(bandwidth, bandwidth))},
        gpu_cache_bytes=0,
        load_bytes_s=INSTANTLY_BYTES_S,
        reload="async",
    )
    result = Evaluator(scenario).coupled(Configuration(dram_bytes, ttl_s, "ssd"))
    return Hits(
        result.dram_hit_blocks / result.blocks_requested, result.ssd_hit_blocks / result.blocks_requested
    )


def compared(trace: Trace, blocks: int, ttl_s: float, block_bytes: int, speed: float) -> dict[str, float]:
    """One configuration, both ways."""
    dram_bytes = blocks * entry_bytes(block_bytes)
    real, began_s, told = asyncio.run(played(trace, dram_bytes, ttl_s, block_bytes, speed))
    expected = simulated(replace(trace, arrival_s=np.array(began_s)), dram_bytes, ttl_s, block_bytes)
    row: dict[str, float] = {"dram_mib": dram_bytes / 2**20, "dram_blocks": blocks, "ttl_s": ttl_s}
    for tier in TIERS:
        row[f"{tier}_simulated"], row[f"{tier}_node"] = getattr(expected, tier), getattr(real, tier)
        row[f"{tier}_difference"] = row[f"{tier}_simulated"] - row[f"{tier}_node"]
    return row | told


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--speed", type=float, default=16.0)
    parser.add_argument("--block-bytes", type=parse_quantity, default=64 * 1024)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    trace = read_trace(given.trace)
    trace = trace.between(0, min(given.requests, trace.requests))
    rows = [
        compared(trace, blocks, ttl_s, given.block_bytes, given.speed) for blocks, ttl_s in CONFIGURATIONS
    ]
    if given.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"DRAM {row['dram_mib']:.0f} MiB ({row['dram_blocks']} blocks), TTL {row['ttl_s']:g} s")
            for tier in TIERS:
                figures = (row[f"{tier}_{what}"] for what in ("simulated", "node", "difference"))
                print("  {:5}  simulated {:.4f}  node {:.4f}  difference {:+.4f}".format(tier, *figures))
            print("  " + "  ".join(f"{name} {row[name]:.5g}" for name in TOLD))
    return int(max(abs(row[f"{tier}_difference"]) for row in rows for tier in TIERS) > WANTED)


if __name__ == "__main__":
    sys.exit(main())
