"""The searches beside each other, and group TTLs on the half of a trace they were not fitted to.

    python -m benches.search TRACE … -f MANIFEST [--class NAME] [--instances N] [--json] [--groups]

Every search of one SSD class against the hypervolume of the 527-point grid, compiled code loaded; then our
thresholds swept. ``--groups``: group TTLs fitted on the first half of the trace and tested on the second
against the best single TTL that takes the same block-seconds there.

TRACE is a file, ``FILE:1`` or ``FILE:2`` for one of its halves, or ``generate:PROFILE:SEED`` for a generated
trace with the statistics of a published one, at 3 requests a second and 12,000 of them.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benches.ttl_groups import FEATURE_GROUPS, feature_groups, prefix_hits

from kvtide_operator.api.manifest import load_manifest
from kvtide_operator.plan.bounds import bounds_of
from kvtide_operator.plan.grid import Grid
from kvtide_operator.plan.group_ttl import curves_of, tune
from kvtide_operator.plan.groups import subtree_groups
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.kareto_paper import KaretoPaper
from kvtide_operator.plan.miss_stream import MissStream, miss_stream
from kvtide_operator.plan.nsga2 import Nsga2
from kvtide_operator.plan.search import Search, run_search
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.workers import processes
from kvtide_operator.planner.goal import space_of
from kvtide_operator.planner.scenario import scenario_from
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.readers import read_trace
from kvtide_operator.workload.trace import Trace

GIB = 1 << 30
GENERATED_REQUESTS, GENERATED_RATE_PER_S = 12_000, 3.0
SUBTREES = (1, 2, 4, 8, 16, 32, 64)
UNIFORM_TTL_S = (60.0, 120.0, 300.0, 600.0)
SEARCHES: dict[str, Search] = {
    "grid": Grid(),
    "kareto": Kareto(),
    "kareto-paper": KaretoPaper(),
    "nsga2, 80 evaluations": Nsga2(max_evaluations=80),
    "nsga2": Nsga2(),
    **{f"kareto, tau_refine {tau}": Kareto(tau_refine=tau) for tau in (0.0002, 0.001, 0.005)},
    **{f"kareto, tau_expand {tau}": Kareto(tau_expand=tau) for tau in (0.005, 0.05)},
    **{f"kareto, start_points {n}": Kareto(start_points=n) for n in (3, 5)},
    **{
        f"kareto-paper, all tau x {x}": KaretoPaper(tau_expand=0.05 * x, tau_perf=0.05 * x, tau_cost=0.02 * x)
        for x in (0.25, 0.5, 2)
    },
}


def trace_of(source: str) -> Trace:
    """The trace that one of the command's arguments names."""
    if source.startswith("generate:"):
        _, profile, seed = source.split(":")
        return generate(
            profile=profile,  # type: ignore[arg-type]  # an unknown one is a KeyError that names it
            requests=GENERATED_REQUESTS,
            rate_per_s=GENERATED_RATE_PER_S,
            seed=int(seed),
        )
    path, _, half = source.partition(":")
    trace = read_trace(path)
    middle = trace.requests // 2
    return trace.between(*{"": (0, trace.requests), "1": (0, middle), "2": (middle, trace.requests)}[half])


def searches(evaluator: Evaluator, space: SearchSpace, jobs: int) -> list[dict[str, Any]]:
    bounds = bounds_of(evaluator.scenario, space)
    evaluator.coupled(space.canonical(space.dram_max_bytes, space.ttl_max_s, space.media[0]))
    rows: list[dict[str, Any]] = []
    with processes(evaluator.evaluate, jobs) as workers:
        run_search(
            Kareto(max_evaluations=2 * jobs), space, bounds, workers
        )  # every worker loads compiled code
        for name, search in SEARCHES.items():
            began = time.perf_counter()
            found = run_search(search, space, bounds, workers)
            rows.append(
                {
                    "search": name,
                    "evaluations": len(found.candidates),
                    "stable": sum(c.outcome.stable for c in found.candidates),
                    "frontier": len(found.frontier),
                    "hypervolume": found.hypervolume.value,
                    "of_grid": found.hypervolume.value
                    / (rows[0]["hypervolume"] if rows else found.hypervolume.value or 1)
                    if found.hypervolume.value
                    else 0.0,
                    "seconds": time.perf_counter() - began,
                }
            )
    return rows


def group_ttls(evaluator: Evaluator, dram_bytes: int, ttl_max_s: float) -> list[dict[str, Any]]:
    """Fit on the first half, test on the second, with prefix continuity and room for what the TTLs keep."""
    trace = evaluator.scenario.trace
    half = trace.requests // 2
    first = trace.between(0, half)
    known = miss_stream(Evaluator(replace(evaluator.scenario, trace=first)).cache(dram_bytes))
    whole = miss_stream(evaluator.cache(dram_bytes))
    kinds = [
        (
            f"{k} subtrees",
            k + 1,
            subtree_groups(first, k)[known.block],
            subtree_groups(trace, k, half)[whole.block],
        )
        for k in SUBTREES
    ]
    kinds.append(("features", FEATURE_GROUPS, feature_groups(first, known), feature_groups(trace, whole)))
    rows = []
    for name, groups, fitted_group, tested_group in kinds:
        curves = curves_of(known, fitted_group, groups)
        for uniform_s in UNIFORM_TTL_S:
            budget = float(sum(curve.block_seconds(uniform_s) for curve in curves))
            began = time.perf_counter()
            tuning = tune(curves, budget, ttl_max_s, seed=0)
            seconds = time.perf_counter() - began
            row = {
                "groups": name,
                "budget_as_ttl_s": uniform_s,
                "seconds": seconds,
                "bound": tuning.bound_hits,
            }
            for which in ("uniform", "roi", "greedy", "best"):
                found = getattr(tuning, which)
                row_ttl = np.array(found.ttl_s)[tested_group]
                tested = prefix_hits(whole, row_ttl, half)
                same = prefix_hits(whole, np.full(len(row_ttl), same_cost_ttl_s(whole, row_ttl, half)), half)
                row[which] = found.independent_hits
                row[f"{which}_tested_gain"] = tested / same - 1 if same else 0.0
            rows.append(row)
    return rows


def same_cost_ttl_s(stream: MissStream, row_ttl_s: np.ndarray, from_request: int) -> float:
    """The single TTL that takes as many block-seconds in the tested half as ``row_ttl_s``."""
    tested = stream.request >= from_request
    hold = stream.hold_s[tested]
    cost = np.minimum(row_ttl_s[tested], hold).sum()
    low, high = 0.0, float(row_ttl_s.max(initial=0.0))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle, hold).sum() <= cost else (low, middle)
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+", metavar="TRACE")
    parser.add_argument("-f", dest="manifest", type=Path, required=True)
    parser.add_argument("--class", dest="tier_class")
    parser.add_argument("--instances", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--groups", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.manifest)
    space = space_of(manifest)
    space = replace(
        space,
        tier_classes=(arguments.tier_class or space.tier_classes[0],),
        instances=arguments.instances or space.instances,
    )
    rows = []
    for source in arguments.traces:
        evaluator = Evaluator(scenario_from(manifest, trace_of(source)))
        found = (
            group_ttls(evaluator, manifest.cache.spec.dram.capacity.min, space.ttl_max_s)
            if arguments.groups
            else searches(evaluator, space, arguments.jobs)
        )
        rows += [{"trace": source.rpartition("/")[2], **row} for row in found]
    if arguments.json:
        print(json.dumps(rows))
        return
    widths = [max(len(name), *(len(shown(row[name])) for row in rows)) for name in rows[0]]
    print("  ".join(name.ljust(width) for name, width in zip(rows[0], widths, strict=True)))
    for row in rows:
        print("  ".join(shown(value).ljust(width) for value, width in zip(row.values(), widths, strict=True)))


def shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
