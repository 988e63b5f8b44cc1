"""Against fixed 1024 GiB of DRAM, as in Kareto's evaluation (section 5): what our search finds, beside it.

    python -m benches.paper TRACE -f examples/kareto.yaml [--jobs N] [--json]

Two engines, one and four of each, on a trace whose arrivals are stretched or squeezed until the baseline's
utilisation rho0 is what a row says: the rate over that at which it saturates, the largest rate found stable
by bisection or, where less, the rate it works off a backlog with (a trace this short cannot tell an
overload of a few percent from chance). Prices and SSD classes are the manifest's. Every figure is of coupled
runs, unstable points count nowhere. The paper's three figures are three points of its frontier, so are ours:

  TTFT     the lowest mean TTFT
  rate     the largest rate with P99 TTFT within the SLO against the baseline's, by bisection, of the points
           with the lowest mean or P99 TTFT at the row's load
  storage  and total cost: the cheapest point whose mean and P99 TTFT are at most the baseline's

"=$" columns allow no higher total cost than the baseline's at the row's load. No price has wear in it:
a point that writes beyond its medium's endurance is labelled. At rho0 = 1.2 nothing is stable,
and the figure is tokens / makespan, the paper's compute-bound case.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from kvtide_operator.api.manifest import load_manifest
from kvtide_operator.plan.bounds import bounds_of, zero_load_ttft_s
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.search import run_search
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.workers import inline
from kvtide_operator.planner.scenario import scenario_from
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.model import geometry
from kvtide_operator.simulate.engine.profiles import find_profile
from kvtide_operator.simulate.engine.step_times import prefill_chunk_s
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.simulate.result import Result
from kvtide_operator.simulate.scenario import Scenario
from kvtide_operator.workload.readers import read_trace

GIB = 1 << 30
PAPER = {"mean TTFT": -0.583, "throughput": 0.093, "cost": -0.202}
LOADS, OVERLOAD, CLAIMED = (0.3, 0.5, 0.7, 0.85, 0.95), 1.2, 0.85
"""Above the last a result is labelled: chance decides how long a queue near saturation gets."""
DRAM_GIB, DRAM_STEP_GIB, TTL_MAX_S = 4096, 64, 3600.0  # the paper's ranges
BASELINE_GIB = 1024
PAPERS_MEDIUM, MEDIA = "essd-pl1", ("essd-pl1", "local-nvme")
VOLUMES = (4, 16)
"""Per engine: a machine takes about 16 disks (general knowledge)."""
SLO_IDLE = 2.0
"""The SLO, P99 TTFT, in units of the P99 of an idle engine without cache: the paper's 2 s is below that."""
BISECTIONS = 10
CONFIRMED, COUPLED_RUNS = 6, 40
"""The best of the first so many points that a coupled run confirms, of so many runs."""
NOTHING = 0.01
"""Gains below this share are none, and get a reason."""
ALL_BUT = 0.95
"""From this share of the hits of an infinite cache on, a cache holds the working set."""
GAINS = ("ttft", "ttft_same_cost", "rate", "rate_same_cost", "storage", "cost")
TOLD = ("prefix_hit_ratio", "ttft_mean_s", "ttft_p99_s", "throughput_tok_s", "stable",
        "storage_cost_per_hour", "cost_per_hour", "endurance_used")  # fmt: skip
OVERLOAD_GAINS, INSTANCES = ("tokens", "tokens_same_cost"), (1, 4)
ENGINES = {
    # A GPU's hour: general knowledge of rented H200 and, as in examples/kareto.yaml, H100, 2026-11-21.
    "Qwen3-Coder-480B, 8 x H200, SGLang": ("Qwen3-Coder-480B-A35B-Instruct", "h200_sxm", "sglang", 3.5),
    "Llama-3.1-8B, H100, vLLM": ("Llama-3.1-8B", "h100_sxm", "vllm", 2.5),
}


@dataclass(frozen=True)
class Fleet:
    """So many of an engine, and what is known of the baseline there; rates in requests a second."""

    engine: str
    instances: int
    stable_rate: float = 0.0
    capacity: float = 0.0
    slo_s: float = 0.0
    baseline_rate: float = 0.0

    @property
    def saturation(self) -> float:
        return min(self.stable_rate, self.capacity)

    @property
    def baseline(self) -> Configuration:
        return Configuration(BASELINE_GIB * GIB, instances=self.instances)


@cache
def scenario_of(trace: Path, manifest: Path, engine: str) -> Scenario:
    model, system, kind, gpu_hour = ENGINES[engine]
    profile = find_profile(model, system, kind)
    return replace(
        scenario_from(load_manifest(manifest), read_trace(trace)),
        profile=profile,
        kv_bytes_per_token=geometry(profile.model).kv_bytes_per_token,
        gpu_hour=gpu_hour,
        gpu_cache_bytes=None,
        semantics="vllm" if kind == "vllm" else "mooncake",
        reload="async" if kind == "vllm" else "queueing",
        ssd_max_bytes=None,
    )


def at_rate(scenario: Scenario, rate: float) -> Evaluator:
    """The scenario with its arrivals stretched to a mean rate, requests a second."""
    trace = scenario.trace
    stretch = trace.requests / trace.span_s / rate
    return Evaluator(replace(scenario, trace=replace(trace, arrival_s=trace.arrival_s * stretch)))


def largest(low: float, high: float, keeps: Callable[[float], bool]) -> float:
    """The largest rate that keeps something; 0 if not even ``low`` does."""
    if not keeps(low):
        return 0.0
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def sustained(scenario: Scenario, fleet: Fleet, configuration: Configuration) -> float:
    """The largest rate at which a configuration is stable with P99 TTFT within the SLO."""

    def keeps(rate: float) -> bool:
        found = at_rate(scenario, rate).coupled(configuration)
        return found.stable and found.ttft_p99_s <= fleet.slo_s

    return largest(0.1 * fleet.capacity, 1.6 * fleet.capacity, keeps)


def calibrated(scenario: Scenario, fleet: Fleet) -> Fleet:
    flood = at_rate(scenario, 1e4).coupled(fleet.baseline)
    capacity = scenario.trace.requests / flood.makespan_s
    idle = at_rate(scenario, 0.02 * capacity / fleet.instances).coupled(Configuration(0))
    saturation = largest(
        0.5 * capacity, 1.5 * capacity, lambda rate: at_rate(scenario, rate).coupled(fleet.baseline).stable
    )
    fleet = replace(fleet, stable_rate=saturation, capacity=capacity, slo_s=SLO_IDLE * idle.ttft_p99_s)
    return replace(fleet, baseline_rate=sustained(scenario, fleet, fleet.baseline))


def searched(evaluator: Evaluator, fleet: Fleet) -> list[Candidate]:
    """Everything that our search evaluates with few and with many volumes."""
    found: dict[Configuration, Candidate] = {}
    for volumes in VOLUMES:
        space = SearchSpace(
            dram_min_bytes=0,
            dram_max_bytes=DRAM_GIB * GIB,
            dram_step_bytes=DRAM_STEP_GIB * GIB,
            ttl_max_s=TTL_MAX_S,
            tier_classes=MEDIA,
            volumes=volumes * fleet.instances,
            instances=fleet.instances,
        )
        bounds = bounds_of(evaluator.scenario, space)
        for candidate in run_search(Kareto(), space, bounds, inline(evaluator.evaluate)).candidates:
            found[candidate.configuration] = candidate
    return list(found.values())


@dataclass(frozen=True)
class Confirm:
    """Picks the best of a search's points by what their coupled runs say; the baseline is one of them."""

    coupled: Callable[[Configuration], Result]
    candidates: list[Candidate]
    baseline: Candidate

    def best(self, value: Callable[[Any], Any], allowed: Callable[[Any], bool]) -> Candidate:
        kept = [self.baseline]
        ranked = sorted((c for c in self.candidates if allowed(c.outcome)), key=lambda c: value(c.outcome))
        for candidate in ranked[:COUPLED_RUNS]:
            outcome = self.coupled(candidate.configuration)
            if allowed(outcome):
                kept.append(replace(candidate, outcome=outcome))
            if len(kept) > CONFIRMED:
                break
        return min(kept, key=lambda c: value(c.outcome))


def cell(trace: Path, manifest: Path, fleet: Fleet, load: float) -> list[dict[str, Any]]:
    """The rows of a load: with the paper's medium, and with any."""
    scenario = scenario_of(trace, manifest, fleet.engine)
    evaluator = at_rate(scenario, load * fleet.saturation)
    coupled, rate = cache(evaluator.coupled), cache(lambda c: sustained(scenario, fleet, c))
    baseline = Candidate(fleet.baseline, coupled(fleet.baseline))
    candidates = searched(evaluator, fleet)
    rows = []
    for media in ((PAPERS_MEDIUM,), MEDIA):
        pool = [c for c in candidates if c.configuration.tier_class in (None, *media)]
        confirm = Confirm(coupled, pool, baseline)
        row: dict[str, Any] = vars(fleet) | {"load": load, "media": media, "evaluations": len(candidates)}
        row["baseline"] = told(baseline)
        gains = overloaded(confirm) if load > 1 else stable_gains(confirm, fleet, rate)
        row |= {name: told(point) | {"change": change} for name, (point, change) in gains.items()}
        rows.append(row | {"reasons": [] if load > 1 else reasons(evaluator, fleet, row)})
    return rows


def overloaded(confirm: Confirm) -> dict[str, tuple[Candidate, float]]:
    base, gains = confirm.baseline.outcome, {}
    for name, most in (("tokens", inf), ("tokens_same_cost", base.cost_per_hour)):

        def allowed(outcome: Any, most: float = most) -> bool:
            return bool(outcome.cost_per_hour <= most)

        point = confirm.best(lambda o: -o.throughput_tok_s, allowed)
        gains[name] = (point, point.outcome.throughput_tok_s / base.throughput_tok_s - 1)
    return gains


def stable_gains(
    confirm: Confirm, fleet: Fleet, rate: Callable[[Configuration], float]
) -> dict[str, tuple[Candidate, float]]:
    base, gains = confirm.baseline.outcome, {}
    for suffix, most in (("", inf), ("_same_cost", base.cost_per_hour)):

        def allowed(outcome: Any, most: float = most) -> bool:
            return bool(outcome.stable and outcome.cost_per_hour <= most)

        quickest = confirm.best(lambda o: o.ttft_mean_s, allowed)
        steadiest = confirm.best(lambda o: o.ttft_p99_s, allowed)
        gains[f"ttft{suffix}"] = (quickest, quickest.outcome.ttft_mean_s / base.ttft_mean_s - 1)
        fastest = max((confirm.baseline, quickest, steadiest), key=lambda p: rate(p.configuration))
        gains[f"rate{suffix}"] = (fastest, rate(fastest.configuration) / fleet.baseline_rate - 1)
    cheapest = confirm.best(
        lambda o: o.cost_per_hour,
        lambda o: o.stable and o.ttft_mean_s <= base.ttft_mean_s and o.ttft_p99_s <= base.ttft_p99_s,
    )
    for name in ("storage", "cost"):
        field = "cost_per_hour" if name == "cost" else "storage_cost_per_hour"
        gains[name] = (cheapest, getattr(cheapest.outcome, field) / getattr(base, field) - 1)
    return gains


def told(candidate: Candidate) -> dict[str, Any]:
    configuration, outcome = candidate.configuration, candidate.outcome
    return {
        "dram_gib": configuration.dram_bytes / GIB,
        "ttl_s": configuration.ttl_s,
        "tier_class": configuration.tier_class,
        "volumes": configuration.volumes if configuration.has_ssd else 0,
        **{name: getattr(outcome, name) for name in TOLD},
    }


def reasons(evaluator: Evaluator, fleet: Fleet, row: dict[str, Any]) -> list[str]:
    """Why what was not gained could not be."""
    scenario, base = evaluator.scenario, row["baseline"]
    said = []
    share = base["storage_cost_per_hour"] / base["cost_per_hour"]
    if share < -PAPER["cost"]:
        said.append(f"storage is {share:.1%} of the baseline's cost: nothing can save more")
    gained = {name: row[name]["change"] * (1 if name.startswith("rate") else -1) for name in GAINS}
    none = [name for name, gain in gained.items() if gain < NOTHING]
    if not none:
        return said
    every_bytes = scenario.trace.unique_blocks * scenario.block_bytes
    most = evaluator.evaluate(Configuration(2 * every_bytes, instances=fleet.instances)).prefix_hit_ratio
    if base["prefix_hit_ratio"] >= ALL_BUT * most:
        said.append(f"DRAM already hits {base['prefix_hit_ratio']:.3f} of at most {most:.3f}")
    said += slow_reads(scenario, fleet, row["media"])
    said += idle_queue(scenario, base)
    quickest = row["ttft_same_cost"]
    why = "less DRAM hits less, and SSD does not make up for it"
    if quickest["change"] < 0:
        hits, p99_s = ([point[n] for point in (quickest, base)] for n in ("prefix_hit_ratio", "ttft_p99_s"))
        why = "hits {:.3f}, the baseline {:.3f}, with P99 TTFT {:.2f} and {:.2f} s".format(*hits, *p99_s)
        why = f"the quickest point of its cost or less {why}"
    return [*said, f"no gain in {', '.join(none)}: {why}"]


def slow_reads(scenario: Scenario, fleet: Fleet, media: tuple[str, ...]) -> list[str]:
    tokens, said = scenario.trace.block_tokens, []
    compute_ms = prefill_chunk_s(scenario.profile.tables, 16 * tokens, 0) / 16 * 1e3
    for name in media:
        fastest = scenario.ssd_classes[name].speed.read_bytes_s(1e6 * GIB, max(VOLUMES) * fleet.instances)
        read_ms = scenario.ssd_block_bytes / fastest * 1e3
        if read_ms > compute_ms:
            said.append(
                f"{name} reads a block in {read_ms:.0f} ms at best, computing it takes {compute_ms:.0f}"
            )
    return said


def idle_queue(scenario: Scenario, base: dict[str, Any]) -> list[str]:
    cached_s, uncached_s = zero_load_ttft_s(scenario.trace, scenario.profile.tables, scenario.chunk_tokens)
    if scenario.reload != "queueing" or base["ttft_mean_s"] > 2 * uncached_s:
        return []
    shown = f"mean TTFT {base['ttft_mean_s']:.2f} s, idle {cached_s:.2f} to {uncached_s:.2f} s"
    return [f"SGLang reads SSD only while a request queues, and few do: {shown}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("-f", dest="manifest", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    options, began = parser.parse_args(), time.perf_counter()
    scenarios = {name: scenario_of(options.trace, options.manifest, name) for name in ENGINES}
    fleets = [Fleet(engine, instances) for engine in ENGINES for instances in INSTANCES]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        calibrations = [pool.submit(calibrated, scenarios[fleet.engine], fleet) for fleet in fleets]
        fleets = [done.result() for done in calibrations]
        tasks = [
            pool.submit(cell, options.trace, options.manifest, fleet, load)
            for fleet in fleets
            for load in (*LOADS, OVERLOAD)
        ]
        for count, _ in enumerate(as_completed(tasks), 1):
            print(f"{count} of {len(tasks)} loads, {time.perf_counter() - began:.0f} s", file=sys.stderr)
        rows = [row for task in tasks for row in task.result()]
    wall_s = time.perf_counter() - began
    settings = told_settings(options.trace, scenarios)
    if options.json:
        facts = {"settings": settings, "fleets": [vars(f) for f in fleets], "rows": rows, "wall_s": wall_s}
        print(json.dumps(facts))
        return
    print("\n".join(f"{name}: {value}" for name, value in settings.items()))
    for fleet in fleets:
        show(fleet, [r for r in rows if (r["engine"], r["instances"]) == (fleet.engine, fleet.instances)])
    print(f"\n{len(tasks)} loads in {wall_s:.0f} s")


def told_settings(path: Path, scenarios: dict[str, Scenario]) -> dict[str, str]:
    common = next(iter(scenarios.values()))
    trace, currency = common.trace, common.dram_price.currency
    means = f"{trace.input_tokens.mean():,.0f} and {trace.output_tokens.mean():,.0f}"
    volumes = " and ".join(map(str, VOLUMES))
    said = {
        "trace": f"{path.name}: {trace.requests:,} requests, {len(trace.blocks):,} blocks of "
        f"{trace.block_tokens} tokens, prompts and answers of {means} in the mean",
        "baseline": f"{BASELINE_GIB} GiB DRAM, no SSD",
        "search": f"kareto, DRAM 0 to {DRAM_GIB} GiB by {DRAM_STEP_GIB}, TTL 0 to {TTL_MAX_S:.0f} s, "
        f"{' and '.join(MEDIA)} on {volumes} volumes an engine",
        "rules": f"offload {common.offload}, routing {common.routing}, writes {common.ssd_writes}, "
        f"chunks of {common.chunk_tokens} tokens, {common.max_sequences} sequences, seed {common.seed}",
        "DRAM": f"{common.dram_price.per_hour(GIB):.5f} {currency} a GiB and hour",
        "paper": ", ".join(f"{name} {change:+.1%}" for name, change in PAPER.items()),
    }
    for name in MEDIA:
        tier = common.ssd_classes[name]
        read, write = (each.ceiling / 1e6 for each in (tier.speed.read, tier.speed.write))
        channel = "one channel" if tier.speed.shared_channel else "two channels"
        price = f"{tier.price.per_hour(1000 * GIB) / 1000:.5f} {currency} a GiB and hour"
        said[name] = f"{price}, a volume reads {read:.0f} and writes {write:.0f} MB/s at most, {channel}"
    for engine, scenario in scenarios.items():
        profile, cache_bytes = scenario.profile, scenario.device_blocks * scenario.block_bytes
        said[engine] = (
            f"{profile.source} ({profile.engine} {profile.engine_version}), {profile.gpus} GPUs at "
            f"{scenario.gpu_hour:.2f} {currency} an hour, {scenario.block_bytes / 2**20:.0f} MiB a block, "
            f"GPU cache {cache_bytes / GIB:.0f} GiB, semantics {scenario.semantics}, reload {scenario.reload}"
        )
    return said


def show(fleet: Fleet, rows: list[dict[str, Any]]) -> None:
    limits = f"stable up to {fleet.stable_rate:.2f} requests/s, works off a backlog at {fleet.capacity:.2f}"
    slo = f"keeps P99 TTFT <= {fleet.slo_s:.1f} s up to {fleet.baseline_rate:.2f}"
    print(f"\n{fleet.instances} x {fleet.engine}: baseline {limits}, {slo}")
    print("rho0  medium base TTFT/hits      TTFT   TTFT=$     rate   rate=$  storage     cost")
    for row in rows:
        base, load = row["baseline"], row["load"]
        head = f"{load:<5} {'PL1' if row['media'] == (PAPERS_MEDIUM,) else 'any':6}"
        names = OVERLOAD_GAINS if load > 1 else GAINS
        changes = " ".join(f"{row[name]['change']:+8.1%}" for name in names)
        if load > 1:
            print(f"{head} tokens/makespan, also at no more cost: {changes}")
        else:
            label = "" if load <= CLAIMED else "  near saturation"
            label += "" if base["stable"] else ", BASELINE UNSTABLE"
            print(f"{head} {base['ttft_mean_s']:6.2f} s  {base['prefix_hit_ratio']:.3f} {changes}{label}")
        for name in names:
            if name != "storage":
                print(f"{'':14}{name}: {place(row[name])}")
        for reason in row["reasons"]:
            print(f"{'':14}because {reason}")


def place(point: dict[str, Any]) -> str:
    volumes, wear = point["volumes"], point["endurance_used"] or 0.0
    ssd = f" + {volumes} {point['tier_class']} TTL {point['ttl_s']:.0f} s" if volumes else ""
    ssd += f" WRITING {wear:.0f} x ITS ENDURANCE" if wear > 1 else ""
    costs = f"storage {point['storage_cost_per_hour']:.2f}, total {point['cost_per_hour']:.2f} an hour"
    return f"{point['dram_gib']:.0f} GiB{ssd}, hits {point['prefix_hit_ratio']:.3f}, {costs}"


if __name__ == "__main__":
    main()
