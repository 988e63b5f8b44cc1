"""Two hundred caches under one operator, at a real API server, when nothing changes any more.

    python -m benches.fleet [--caches 200] [--steady 300] [--json]

The cluster is the one that KUBECONFIG names, else a control plane of our own (`e2e/README.md`). One process
here stands in for the kubelets and runs the nodes, one for each cache; they are real but hold nothing. Each
has an hour of an engine's trace when it starts, and a request every five seconds from then on; every ten
minutes the same prefixes come again. Mode is Auto, the interval a minute. It waits until the operator has
written nothing but its Lease for a minute and a half, and then measures.

Calls are the operator's own: its watches, one a kind, begin anew every four minutes and are not among them. A
pass's duration contains its wait for a free place.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benches.operator_samples import calls, cpu_s, memory_mib, planner_of, quantile, sample, total, writes
from e2e.images import REPOSITORY
from e2e.kube import cluster as own
from e2e.kube.places import BIN
from e2e.kubectl import apply, kubectl, new_namespace
from e2e.operator_process import Operator, operator
from e2e.stand_in import NOWHERE, RunningNode, StandIn, stand_in

SETTLE_LIMIT_S = 900.0
QUIET_LIMIT_S = 2400.0
QUIET_S = 90.0
SAMPLE_S = 10.0
POLL_S = 5.0
REQUEST_EVERY_S = 5.0
CYCLE = 120
SEEDED = 720
DOCUMENTS, DOCUMENT_BLOCKS, OWN_BLOCKS = 60, 16, 4
BLOCK_TOKENS = 512
MAX_APPLIED_AT_ONCE = 50
TIER_CLASS = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TierClass",
    "metadata": {"name": "fleet-dram"},
    "spec": {"medium": "DRAM", "price": {"currency": "USD", "capacity": [{"perGiBHour": "4"}]}},
}


@dataclass(frozen=True)
class Figures:
    """What was measured; rates and percentiles over the steady time."""

    caches: int
    first_settled_s: float
    all_settled_s: float
    all_planned_s: float
    quiet_after_s: float
    steady_s: float
    passes_per_minute: float
    pass_p50_s: float
    pass_p99_s: float
    pass_p99_from_the_start_s: float
    rounds_per_minute: float
    plan_step_mean_s: float
    plan_age_p50_s: float
    plan_age_p99_s: float
    api_calls_per_minute: float
    lease_calls_per_minute: float
    writes: dict[str, int]
    operator_cores: float
    operator_rss_mib: float
    operator_peak_mib: float
    planner_cores: float
    planner_rss_mib: float
    planner_peak_mib: float
    plans: int
    moves: int


def cache(namespace: str, number: int) -> dict[str, Any]:
    """A small cache that stands for a large one: blocks of 64 KiB, and a GiB at a high price."""
    return {
        "apiVersion": "kvtide.dev/v1alpha1",
        "kind": "TieredCache",
        "metadata": {"name": f"fleet-{number:03}", "namespace": namespace},
        "spec": {
            "model": {
                "name": "meta-llama/Llama-3.1-8B-Instruct",
                "blockTokens": BLOCK_TOKENS,
                "kvBytesPerToken": 128,
            },
            "engine": {
                "kind": "VLLM",
                "gpuHour": "2.50",
                "profile": {"source": "Catalogue", "system": "h100_sxm"},
            },
            "tiers": [
                {
                    "name": "dram",
                    "medium": "DRAM",
                    "classes": ["fleet-dram"],
                    "capacity": {"initial": "40Mi", "min": "32Mi", "max": "512Mi", "step": "8Mi"},
                }
            ],
            "nodes": {"replicas": {"min": 1}, "template": {"image": "none", "nodeSelector": NOWHERE}},
            "scaling": {"mode": "Auto", "interval": "1m", "down": {"stabilization": "1m"}},
        },
    }


class Engine:
    """The engine in front of one cache, as far as its node's trace tells of it."""

    def __init__(self, running: RunningNode, seed: int) -> None:
        drawn = random.Random(seed)
        weights = [1 / rank for rank in range(1, DOCUMENTS + 1)]
        self._documents = drawn.choices(range(DOCUMENTS), weights, k=CYCLE)
        self._trace = running.node.trace
        self._asked = 0

    def ask(self, at_s: float) -> None:
        """Report one request: a document that others ask for, too, and a question of its own."""
        document = self._documents[self._asked % CYCLE]
        blocks = [document * DOCUMENT_BLOCKS + n for n in range(DOCUMENT_BLOCKS)]
        blocks += [1 << 20 | self._asked * OWN_BLOCKS + n for n in range(OWN_BLOCKS)]
        self._asked += 1
        line = {
            "timestamp": int(at_s * 1000),
            "input_length": len(blocks) * BLOCK_TOKENS,
            "output_length": 100,
            "hash_ids": blocks,
        }
        self._trace.append_engine(json.dumps(line).encode())


async def play(kubelets: StandIn) -> None:
    """Have every node hear of requests, from its start on, and of those of the hour before."""
    engines: dict[tuple[str, str], Engine] = {}
    while True:
        now_s = time.time()
        for key, running in list(kubelets.nodes.items()):
            if key not in engines:
                engines[key] = Engine(running, len(engines))
                for before in range(SEEDED, 0, -1):
                    engines[key].ask(now_s - before * REQUEST_EVERY_S)
                await asyncio.sleep(0)
            engines[key].ask(now_s)
        await asyncio.sleep(REQUEST_EVERY_S - (time.time() - now_s) % REQUEST_EVERY_S)


async def caches_of(namespace: str) -> list[dict[str, Any]]:
    listed = json.loads(await kubectl("-n", namespace, "get", "tieredcaches", "-o", "json"))
    items: list[dict[str, Any]] = listed["items"]
    return items


def is_settled(raw: dict[str, Any]) -> bool:
    said = {one["type"]: one["status"] for one in raw.get("status", {}).get("conditions", ())}
    return (said.get("Ready"), said.get("Reconciling")) == ("True", "False")


async def watch_start(namespace: str, count: int, running: Operator, began_s: float) -> list[float]:
    """Seconds from ``began_s`` to: the first settled, all settled, all planned."""
    reached: dict[str, float] = {}
    while len(reached) < 3:
        await asyncio.sleep(POLL_S)
        passed_s = time.time() - began_s
        settled = sum(map(is_settled, await caches_of(namespace)))
        planned = len((await sample(running)).ages_s())
        print(f"{passed_s:4.0f} s: {settled} settled, {planned} planned", file=sys.stderr)
        for name, holds in (("first", settled), ("settled", settled == count), ("planned", planned == count)):
            if holds:
                reached.setdefault(name, passed_s)
        if passed_s > SETTLE_LIMIT_S:
            sys.exit(f"after {passed_s:.0f} s {settled} caches have settled and {planned} were planned for")
    return [reached["first"], reached["settled"], reached["planned"]]


async def watch_quiet(running: Operator) -> None:
    """Wait until nothing but the Lease has been written for `QUIET_S`."""
    deadline = time.time() + QUIET_LIMIT_S
    last = await sample(running)
    since_s = last.at_s
    while time.time() - since_s < QUIET_S:
        if time.time() > deadline:
            print(f"not quiet after {QUIET_LIMIT_S:.0f} s: {writes(last, await sample(running))}")
            return
        await asyncio.sleep(SAMPLE_S)
        now = await sample(running)
        if written := writes(last, now):
            since_s = now.at_s
            print(f"wrote {written}", file=sys.stderr)
        last = now


async def measure(namespace: str, count: int, steady_s: float, folder: Path) -> Figures:
    manifests = [cache(namespace, number) for number in range(count)]
    await apply(TIER_CLASS)
    for first in range(0, count, MAX_APPLIED_AT_ONCE):
        await apply(*manifests[first : first + MAX_APPLIED_AT_ONCE])
    async with stand_in(namespace) as kubelets:
        traffic = asyncio.create_task(play(kubelets))
        began_s = time.time()
        async with operator(folder, namespace) as running:
            first_s, settled_s, planned_s = await watch_start(namespace, count, running, began_s)
            await watch_quiet(running)
            quiet_s = time.time() - began_s
            process = running.process.pid
            planner = planner_of(process)
            before, cpu_before = await sample(running), (cpu_s(process), cpu_s(planner))
            ages_s: list[float] = []
            while time.time() - before.at_s < steady_s:
                await asyncio.sleep(SAMPLE_S)
                ages_s += (await sample(running)).ages_s()
            after, cpu_after = await sample(running), (cpu_s(process), cpu_s(planner))
            memory, planner_memory = memory_mib(process), memory_mib(planner)
        traffic.cancel()
        plans = json.loads(await kubectl("-n", namespace, "get", "cacheplans", "-o", "json"))["items"]
        decisions = [one for raw in await caches_of(namespace) for one in raw["status"]["decisions"]]
    span_s = after.at_s - before.at_s
    counted = calls(before, after)
    leases = sum(n for (_, resource), n in counted.items() if resource == "leases")
    step = "kvtide_operator_step_duration_seconds"
    duration = "kvtide_operator_pass_duration_seconds"
    return Figures(
        caches=count,
        first_settled_s=first_s,
        all_settled_s=settled_s,
        all_planned_s=planned_s,
        quiet_after_s=quiet_s,
        steady_s=span_s,
        passes_per_minute=60 * total(f"{duration}_count", before, after) / span_s,
        pass_p50_s=quantile(duration, 0.5, before, after),
        pass_p99_s=quantile(duration, 0.99, before, after),
        pass_p99_from_the_start_s=quantile(duration, 0.99, None, after),
        rounds_per_minute=60 * total(f"{step}_count", before, after, step="observe") / span_s,
        plan_step_mean_s=total(f"{step}_sum", before, after, step="plan")
        / max(total(f"{step}_count", before, after, step="plan"), 1),
        plan_age_p50_s=float(np.percentile(ages_s, 50)),
        plan_age_p99_s=float(np.percentile(ages_s, 99)),
        api_calls_per_minute=60 * sum(counted.values()) / span_s,
        lease_calls_per_minute=60 * leases / span_s,
        writes=writes(before, after),
        operator_cores=(cpu_after[0] - cpu_before[0]) / span_s,
        operator_rss_mib=memory[0],
        operator_peak_mib=memory[1],
        planner_cores=(cpu_after[1] - cpu_before[1]) / span_s,
        planner_rss_mib=planner_memory[0],
        planner_peak_mib=planner_memory[1],
        plans=len(plans),
        moves=sum(one["action"] != "Hold" for one in decisions),
    )


@contextmanager
def some_cluster() -> Iterator[None]:
    """KUBECONFIG's, or a control plane of our own for as long as this takes."""
    if "KUBECONFIG" in os.environ:
        yield
        return
    was_up = own.is_up(with_node=False)
    os.environ["KUBECONFIG"] = str(own.up(with_node=False))
    try:
        yield
    finally:
        if not was_up:
            own.down()


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with new_namespace("fleet") as namespace:
            figures = await measure(namespace, options.caches, options.steady, Path(folder))
    if options.json:
        print(json.dumps(asdict(figures)))
        return
    for name, value in asdict(figures).items():
        shown = f"{value:,.3f}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' '):<28} {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caches", type=int, default=200)
    parser.add_argument("--steady", type=float, default=300.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["PATH"] += f":{BIN}"
    with some_cluster():
        definitions = str(REPOSITORY / "crds")
        for command in (
            ["apply", "--server-side", "--force-conflicts", f"--filename={definitions}"],
            ["wait", "--for=condition=Established", f"--filename={definitions}", "--timeout=60s"],
        ):
            subprocess.run(["kubectl", *command], check=True, capture_output=True)
        asyncio.run(run(options))


if __name__ == "__main__":
    main()
