"""The simulator's speed, its size, and how far two stages are from the coupled run.

    python -m benches.simulator [--trace FILE.jsonl] [--requests 170000] [--rounds 9] [--json]

Times are the best of the rounds, with compiled caches warm; each scale of the generated trace runs in a
process of its own, so that its peak memory is its own.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.profiles import find_profile
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.prices import Ladder, Price
from kvtide_operator.simulate.scenario import Scenario, SsdClass
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

GIB = 1 << 30
DEFAULT_TRACE = Path(__file__).parents[2] / "shared" / "traces" / "mooncake_conversation.jsonl"
POINTS = [
    Configuration(0, instances=4),
    Configuration(256 * GIB, instances=4),
    Configuration(1024 * GIB, instances=4),
    Configuration(0, 600.0, "nvme", 8, 4),
    Configuration(256 * GIB, 120.0, "nvme", 8, 4),
    Configuration(256 * GIB, 600.0, "nvme", 8, 4),
    Configuration(256 * GIB, 600.0, "pl1", 16, 4),
    Configuration(512 * GIB, 1200.0, "pl1", 16, 4),
    Configuration(512 * GIB, 3600.0, "nvme", 8, 2),
]


def scenario(trace: Trace, **options: Any) -> Scenario:
    """Llama-3.1-8B on H100, vLLM's rules; SSD classes as in examples/tierclasses.yaml, without sizes."""

    def price(per_gib_hour: str) -> Price:
        return Price("USD", Ladder.up_to("price.capacity", [(None, Decimal(per_gib_hour))]))

    pl1 = Bandwidth(120e6, 0.5e6, 125e6, 350e6)
    return Scenario(
        trace=trace,
        profile=find_profile("Llama-3.1-8B", "h100_sxm", "vllm"),
        kv_bytes_per_token=131_072,
        dram_price=price("0.00394"),
        gpu_hour=2.5,
        ssd_classes={
            "pl1": SsdClass(price("0.00032"), MediumSpeed(pl1, pl1, shared_channel=True, latency_s=200e-6)),
            "nvme": SsdClass(price("0.00011"), MediumSpeed(Bandwidth(660e6), Bandwidth(350e6))),
        },
        **({"semantics": "vllm", "reload": "async", "routing": "prefixAffine"} | options),
    )


def best_s(rounds: int, run: Callable[[], object]) -> tuple[float, float]:
    """Least wall and CPU seconds of ``rounds`` runs, after one that loads the compiled code."""
    run()
    wall_s, cpu_s = [], []
    for _ in range(rounds):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        run()
        wall_s.append(time.perf_counter() - began_s)
        cpu_s.append(time.process_time() - began_cpu_s)
    return min(wall_s), min(cpu_s)


def speed(trace: Trace, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each part on one trace, wall and CPU."""
    point = Configuration(256 * GIB, 600.0, "nvme", 8, 4)
    parts: dict[str, tuple[float, float]] = {}
    for reload, loading in (("async", "layered"), ("queueing", "layered"), ("async", "async")):
        evaluator = Evaluator(scenario(trace, reload=reload, loading=loading))
        parts[f"evaluation, {reload} reload, cache pass known"] = best_s(
            rounds, functools.partial(evaluator.evaluate, point)
        )
        parts[f"coupled run, {reload} reload, its evaluation included"] = best_s(
            rounds, functools.partial(evaluator.coupled, point)
        )

    sizes = itertools.count(point.dram_bytes, GIB)  # one that it has not met before in every round
    parts["cache pass of a DRAM size"] = best_s(rounds, lambda: evaluator.cache(next(sizes), point.instances))
    parts["preparing an evaluator"] = best_s(1, lambda: Evaluator(scenario(trace)))
    return {name: (round(wall_s * 1e3, 1), round(cpu_s * 1e3, 1)) for name, (wall_s, cpu_s) in parts.items()}


def agreement(trace: Trace) -> list[dict[str, Any]]:
    """Hit ratio and mean TTFT of both modes at every point."""
    rows = []
    for reload, loading in (("async", "layered"), ("queueing", "layered"), ("async", "async")):
        evaluator = Evaluator(scenario(trace, reload=reload, loading=loading))
        for point in POINTS:
            two_stage, coupled = evaluator.evaluate(point), evaluator.coupled(point)
            rows.append(
                {
                    "reload": reload,
                    "loading": loading,
                    **asdict(point),
                    "stable": coupled.stable,
                    "two_stage": two_stage.prefix_hit_ratio,
                    "coupled": coupled.prefix_hit_ratio,
                    "ttft_two_stage_s": two_stage.ttft_mean_s,
                    "ttft_coupled_s": coupled.ttft_mean_s,
                }
            )
    return rows


def at_scale(requests: int) -> dict[str, float]:
    """Seconds and peak memory of one configuration on a generated chat trace of 16-token blocks."""
    point = Configuration(64 * GIB, 600.0, "nvme", 8, 4)
    Evaluator(scenario(generate(profile="chat", requests=100, block_tokens=16))).evaluate(point)
    trace = generate(profile="chat", requests=requests, block_tokens=16)
    generated_gib = peak_gib()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    result = Evaluator(scenario(trace)).evaluate(point)
    return {
        "requests": requests,
        "blocks": len(trace.blocks),
        "wall_s": round(time.perf_counter() - began_s, 3),
        "cpu_s": round(time.process_time() - began_cpu_s, 3),
        "trace_made_peak_gib": round(generated_gib, 2),
        "peak_gib": round(peak_gib(), 2),
        "prefix_hit_ratio": round(result.prefix_hit_ratio, 4),
        "stable": result.stable,
    }


def peak_gib() -> float:
    """Most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Runs all parts and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trace", type=Path, default=DEFAULT_TRACE)
    parser.add_argument("--requests", type=int, default=170_000, help="of the largest generated trace")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trace = read_trace(options.trace)
    report: dict[str, Any] = {"ms": speed(trace, options.rounds), "agreement": agreement(trace), "scale": []}
    context = multiprocessing.get_context("spawn")
    for share in (16, 4, 1):
        with context.Pool(1) as pool:
            report["scale"].append(pool.apply(at_scale, (options.requests // share,)))
    if options.json:
        print(json.dumps(report))
        return
    print(f"{trace.requests:,} requests, {len(trace.blocks):,} blocks")
    for name, (wall_ms, cpu_ms) in report["ms"].items():
        print(f"  {wall_ms:8.1f} ms wall {cpu_ms:8.1f} ms CPU  {name}")
    print("hit ratio of two stages and coupled, mean TTFT of both")
    for row in report["agreement"]:
        state = "stable" if row["stable"] else "UNSTABLE"
        where = (
            f"{row['dram_bytes'] // GIB} GiB, {row['ttl_s']:.0f} s, {row['volumes']} x {row['tier_class']}"
        )
        print(
            f"  {row['two_stage']:.4f} {row['coupled']:.4f} ({row['two_stage'] - row['coupled']:+.4f})"
            f"  {row['ttft_two_stage_s']:7.3f} s {row['ttft_coupled_s']:7.3f} s  {state:8}"
            f" {row['reload']:8} {row['loading']:7} {where}, {row['instances']} engines"
        )
    print("one configuration on generated chat traces of 16-token blocks")
    for row in report["scale"]:
        print(
            f"  {row['requests']:8,} requests {row['blocks']:12,} blocks  {row['wall_s']:.2f} s"
            f" wall {row['cpu_s']:.2f} s CPU"
            f"  peak {row['peak_gib']:.2f} GiB ({row['trace_made_peak_gib']:.2f} of it to make the trace)"
        )


if __name__ == "__main__":
    main()
