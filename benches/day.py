"""A generated day, played through real nodes: sized by the loop, and at fixed sizes.

    python -m benches.day [--speed 60] [--rate 0.7] [--hours 6] [--seed 1] [--json]

The load rises and falls once, as over a day, within ``--hours``; window, interval and stabilisation are those
of a day scaled alike. The loop's clock runs as much faster as the trace is played (decision 0002). Cost and
hits are measured: the capacity that was decided at the declared price, blocks hit / blocks requested as the
player saw them. The mean TTFT is simulated: each hour of the trace at the capacity it had, on caches that the
hours before have filled. The fixed sizes are the upper bound, which a cautious person sets, and what costs
as much as the loop.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from kvtide_operator.api.manifest import Manifest, load_manifest
from kvtide_operator.api.objective import Scaling
from kvtide_operator.cli import demo
from kvtide_operator.cli.assemble import local_loop
from kvtide_operator.planner.prices import price_of
from kvtide_operator.planner.scenario import scenario_from
from kvtide_operator.replay.player import ReplayOptions, replay
from kvtide_operator.replay.targets import parse_targets
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.trace import Trace

PEAK = 4.6
HOUR_S = 3600.0
DAY_HOURS = 24
CONNECTIONS = 8
BLOCK_BYTES = 124 * 1024


@dataclass(frozen=True)
class Day:
    """One way through the day."""

    name: str
    mean_mib: float
    cost_per_hour: float
    prefix_hit_ratio: float
    ttft_mean_s: float
    resizes: int
    errors: int


def scaling_of(hours: float, mode: Literal["Auto", "Manual"]) -> Scaling:
    """Of a day: rounds every ten minutes on the last hour, shrinking after one; all scaled with the day."""
    hour_s = HOUR_S * hours / DAY_HOURS
    down = {"stabilization": hour_s}
    return Scaling(mode=mode, interval=hour_s / 6, window=hour_s, down=down, minimum_gain=0.01)


def declared(scaling: Scaling, fixed_bytes: int | None = None) -> Manifest:
    manifest = load_manifest(Path(demo.__file__).with_name("demo.yaml"))
    spec = manifest.cache.spec
    tiers = spec.tiers
    if fixed_bytes is not None:
        capacity = spec.dram.capacity.model_copy(update={"initial": fixed_bytes})
        tiers = (spec.dram.model_copy(update={"capacity": capacity}),)
    spec = spec.model_copy(update={"scaling": scaling, "tiers": tiers})
    return replace(manifest, cache=manifest.cache.model_copy(update={"spec": spec}))


def clock_of(speed: float) -> Callable[[], float]:
    wall_s, began_s = time.time(), time.monotonic()
    return lambda: wall_s + (time.monotonic() - began_s) * speed


async def live(name: str, manifest: Manifest, trace: Trace, speed: float) -> Day:
    """Play the day through nodes of this manifest."""
    clock = clock_of(speed)
    capacities: list[tuple[float, int]] = []
    resizes = 0
    async with local_loop(manifest, clock=clock) as (loop, place):
        began_s = clock()
        options = ReplayOptions(block_bytes=BLOCK_BYTES, speed=speed, connections=CONNECTIONS, clock=clock)
        player = asyncio.create_task(replay(trace, parse_targets(",".join(place.addresses)), options))
        while not player.done():
            done = await loop.run_once()
            capacities.append((clock() - began_s, done.decision.after.dram))
            resizes += done.decision.action != "Hold"
            print(
                f"\r{name}: hour {capacities[-1][0] / HOUR_S:4.1f}, {done.decision.after.dram >> 20} MiB ",
                end="",
                file=sys.stderr,
            )
            await asyncio.wait({player}, timeout=manifest.cache.spec.scaling.interval / speed)
        report = await player
    print(file=sys.stderr)
    hours = [capacity_of_hour(capacities, hour) for hour in range(round(trace.span_s / HOUR_S))]
    price = price_of(manifest.classes[manifest.cache.spec.dram.classes[0]])
    assert report.prefix_hit_ratio is not None
    return Day(
        name=name,
        mean_mib=float(np.mean(hours)) / (1 << 20),
        cost_per_hour=float(np.mean([price.per_hour(size) for size in hours])),
        prefix_hit_ratio=report.prefix_hit_ratio,
        ttft_mean_s=simulated_ttft_s(manifest, trace, hours),
        resizes=resizes,
        errors=report.errors + report.wrong_bytes,
    )


def capacity_of_hour(capacities: list[tuple[float, int]], hour: int) -> float:
    """Bytes, the mean over an hour; a size holds until the next."""
    at = np.array([at_s for at_s, _ in capacities])
    moments = np.arange(hour * HOUR_S, (hour + 1) * HOUR_S, 60.0)
    held = np.maximum(np.searchsorted(at, moments, side="right") - 1, 0)
    return float(np.mean([capacities[place][1] for place in held]))


def simulated_ttft_s(manifest: Manifest, trace: Trace, hours: list[float]) -> float:
    """Mean over all requests, each hour at its own capacity."""
    total_s = requests = 0.0
    for hour, size in enumerate(hours):
        first = int(np.searchsorted(trace.arrival_s, hour * HOUR_S))
        last = int(np.searchsorted(trace.arrival_s, (hour + 1) * HOUR_S))
        if first == last:
            continue
        upto = trace.between(0, last)
        scenario = replace(scenario_from(manifest, upto), first_request=first)
        outcome = Evaluator(scenario).coupled(Configuration(int(size)))
        total_s += outcome.ttft_mean_s * (last - first)
        requests += last - first
    return total_s / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=0.7, help="requests a second at the trough")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    trace = generate(
        profile="chat",
        duration_s=given.hours * HOUR_S,
        rate_per_s=given.rate,
        shape="hill",
        peak=PEAK,
        seed=given.seed,
    )
    most = declared(scaling_of(given.hours, "Auto")).cache.spec.dram.capacity
    auto = asyncio.run(
        live("sized by the loop", declared(scaling_of(given.hours, "Auto")), trace, given.speed)
    )
    fixed = scaling_of(given.hours, "Manual")
    equal = round(auto.mean_mib * (1 << 20) / most.step) * most.step
    days = [
        auto,
        asyncio.run(live("fixed at the bound", declared(fixed, most.max), trace, given.speed)),
        asyncio.run(live("fixed, equal cost", declared(fixed, equal), trace, given.speed)),
    ]
    if given.json:
        print(json.dumps([asdict(day) for day in days]))
        return
    print(f"{trace.requests:,} requests of {given.hours:g} hours, played {given.speed:g} times as fast")
    print(f"{'':20}{'mean MiB':>10}{'cost/h':>8}{'hits':>8}{'TTFT s':>8}{'resizes':>9}{'errors':>8}")
    for day in days:
        print(
            f"{day.name:20}{day.mean_mib:>10.0f}{day.cost_per_hour:>8.3f}{day.prefix_hit_ratio:>8.1%}"
            f"{day.ttft_mean_s:>8.3f}{day.resizes:>9}{day.errors:>8}"
        )


if __name__ == "__main__":
    main()
