"""Hit ratios of a real node: against the exact curve, and after a live shrink against a node born small.

python -m benches.hit_ratio TRACE [--requests 2000] [--block-bytes 64Ki] [--json]
"""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

from kvtide_operator.act.local import LocalPlace
from kvtide_operator.api.quantity import parse_quantity
from kvtide_operator.decide.steps import Target
from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.targets import parse_targets
from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

ENTRY_BYTES = 4096 + 512 + len("kvt:replay:123456")  # what a node charges for an entry beside its value
SIZES = (1_000, 2_000, 5_000, 12_000)  # blocks
SHRINK_FROM = 12_000


def one_node(capacity: int, block_tokens: int) -> LocalPlace:
    options = [f"--block-tokens={block_tokens}"]
    return LocalPlace(1, Target(capacity), ssd_class=None, options=lambda _: options, say=print)


async def against_curve(trace: Trace, block_bytes: int) -> list[dict[str, float]]:
    curve = hit_curve(trace)
    rows = []
    for blocks in SIZES:
        capacity = blocks * (block_bytes + ENTRY_BYTES)
        async with one_node(capacity, trace.block_tokens) as place:
            played = await replay(trace, parse_targets(place.addresses[0]), ReplayOptions(block_bytes))
        assert played.prefix_hit_ratio is not None
        rows.append(
            {
                "capacity_mib": capacity / 2**20,
                "curve": curve.hit_ratio_at(blocks),
                "replay": played.prefix_hit_ratio,
                "difference": played.prefix_hit_ratio - curve.hit_ratio_at(blocks),
                "errors": played.errors,
                "wrong_bytes": played.wrong_bytes,
            }
        )
    return rows


async def after_shrink(trace: Trace, block_bytes: int) -> dict[str, float]:
    """Shrink to a quarter while the second quarter of the trace is played; compare the second half."""
    quarter, half = trace.requests // 4, trace.requests // 2
    large = SHRINK_FROM * (block_bytes + ENTRY_BYTES)
    options = ReplayOptions(block_bytes)
    errors = wrong = 0
    seen = {}
    figures: dict[str, float] = {}
    for born, capacity in (("small", large // 4), ("large", large)):
        async with one_node(capacity, trace.block_tokens) as place:
            targets = parse_targets(place.addresses[0])
            parts = [await replay(trace.between(0, quarter), targets, options)]
            under_load = asyncio.create_task(replay(trace.between(quarter, half), targets, options))
            if born == "large":
                await asyncio.sleep(0.2)
                began_s = time.perf_counter()
                await place.resize(Target(large // 4))
                figures["shrink_s"] = time.perf_counter() - began_s
                status = await place.clients["node-0"].status()
                figures["cap_mib"] = large / 4 / 2**20
                figures["tier_resident_mib"] = status.tiers["dram"].resident_bytes / 2**20
                figures["process_resident_mib"] = _resident_mib()
            parts.append(await under_load)
            parts.append(await replay(trace.between(half, trace.requests), targets, options))
        errors += sum(part.errors for part in parts)
        wrong += sum(part.wrong_bytes for part in parts)
        seen[born] = parts[-1].prefix_hit_ratio or 0.0
    return {
        **figures,
        "hit_ratio_after_shrink": seen["large"],
        "hit_ratio_born_small": seen["small"],
        "difference": seen["large"] - seen["small"],
        "errors": errors,
        "wrong_bytes": wrong,
    }


def _resident_mib() -> float:
    """Resident memory of the one node this process has started."""
    children = (Path("/proc/self/task") / str(os.getpid()) / "children").read_text().split()
    (pid,) = children
    (line,) = (
        row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS:")
    )
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--block-bytes", type=parse_quantity, default=64 * 1024)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    trace = read_trace(given.trace)
    first = trace.between(0, given.requests)
    curve_rows = asyncio.run(against_curve(first, given.block_bytes))
    shrink = asyncio.run(after_shrink(trace.between(0, 2 * given.requests), given.block_bytes))
    if given.json:
        print(json.dumps({"against_curve": curve_rows, "after_shrink": shrink}))
        return
    for row in curve_rows:
        print("  ".join(f"{name} {value:.5g}" for name, value in row.items()))
    print("after a live shrink to a quarter:")
    print("  ".join(f"{name} {value:.5g}" for name, value in shrink.items()))


if __name__ == "__main__":
    main()
