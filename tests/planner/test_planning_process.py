"""The planning process: what it answers, and what becomes of it when it is lost."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_cachenode.contract.trace_line import TraceLine
from kvtide_operator.api.manifest import Manifest, load_manifest
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.replan import moved
from kvtide_operator.observe.page import Page
from kvtide_operator.plan.proposal import Demand, Heard
from kvtide_operator.planner import planning
from kvtide_operator.planner.history import TraceHistory
from kvtide_operator.planner.process import Planner, PlannerLostError
from kvtide_operator.simulate.cache.curve import hit_curve
from kvtide_operator.simulate.cache.hit_curve import HitCurve
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.readers.node import NodeLines
from kvtide_operator.workload.readers.parts import joined
from kvtide_operator.workload.readers.text import TraceText
from kvtide_operator.workload.trace import Trace

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "operator/src/kvtide_operator/cli/demo.yaml"
MI = 1 << 20


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(DEMO)


@pytest.fixture
async def planner() -> AsyncIterator[Planner]:
    async with Planner() as planner:
        yield planner


async def test_it_answers_with_the_demand_and_a_plan(planner: Planner, manifest: Manifest) -> None:
    trace = generate(profile="chat", requests=200, rate_per_s=2.0, seed=1)
    heard = await planner.take_in("a", manifest, (), 1e9, trace)
    demand, notes = heard.demand, heard.notes
    assert await planner.check(manifest) is None
    assert demand is not None
    assert notes == ()
    assert demand.requests == 200
    assert demand.curve.hit_ratio_infinite == pytest.approx(hit_curve(trace).hit_ratio_infinite)
    found = await planner.search("a", manifest, Configuration(64 * MI))
    assert found is not None
    plan, speeds = found
    assert speeds.dram_tokens_per_s > speeds.prefill_tokens_per_s
    assert plan.current.configuration.dram_bytes == 64 * MI
    assert await planner.search("another", manifest, Configuration(64 * MI)) is None
    await planner.forget("a")
    assert await planner.search("a", manifest, Configuration(64 * MI)) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"model": {"name": "mine/own"}}, "model 'mine/own' is not known; give layers"),
        ({"model": {"name": "Qwen/Qwen3-8B", "dtype": "int3"}}, "dtype 'int3' is not known; use one of"),
        ({"engine": {"profile": {"source": "Catalogue", "system": "h1000"}}}, "h1000"),
        ({"engine": {"profile": {"source": "Catalogue", "system": "h100_sxm", "gpus": 3}}}, "3"),
        (
            {"engine": {"profile": {"source": "Table", "file": "no-such.json"}}},
            r"no-such\.json: No such file",
        ),
        ({"history": {"url": "nonsense://x"}}, "nonsense://x: Protocol not known"),
        ({"model": {"kvBytesPerToken": 1 << 30}}, r"a block of .* takes .* more than the least DRAM; raise"),
        (
            {"nodes": {"replicas": {"min": 64}}, "model": {"kvBytesPerToken": 1 << 15}},
            r"a block of .* takes .* more than each of 64 nodes has of the least DRAM; raise capacity\.min",
        ),
    ],
)
def test_what_no_load_could_be_planned_for_is_found_without_any(
    manifest: Manifest, spec: dict[str, dict[str, object]], says: str
) -> None:
    assert planning.check(manifest) is None
    declared = manifest.cache.model_dump(mode="json", by_alias=True, exclude_none=True)
    for part, values in spec.items():
        declared["spec"].setdefault(part, {})
        if part == "model" and "kvBytesPerToken" not in values:
            declared["spec"][part].pop("kvBytesPerToken", None)
        declared["spec"][part] |= values
    reason = planning.check(replace(manifest, cache=TieredCache.model_validate(declared)))
    assert reason is not None
    assert re.search(says, reason), reason


def test_classes_of_two_currencies_are_found_without_any_load() -> None:
    samples = ROOT / "samples"
    classes = {
        each["metadata"]["name"]: each
        for each in yaml.safe_load_all((samples / "tierclasses.yaml").read_text())
    }
    classes["essd-pl2"]["spec"]["price"]["currency"] = "EUR"
    manifest = Manifest(
        samples,
        TieredCache.model_validate(yaml.safe_load((samples / "vllm-large.yaml").read_text())),
        {name: TierClass.model_validate(classes[name]) for name in ("dram-standard", "essd-pl1", "essd-pl2")},
    )
    assert planning.check(manifest) == "the prices are in EUR, USD; give all of them in one currency"


async def test_a_lost_process_is_replaced_and_knows_nothing(planner: Planner, manifest: Manifest) -> None:
    trace = generate(profile="chat", requests=50, rate_per_s=2.0, seed=1)
    await planner.take_in("a", manifest, (), 1e9, trace)
    lives = planner.lives
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PlannerLostError, match="ended unexpectedly"):
        await planner.take_in("a", manifest, (), 1e9, trace)
    assert planner.lives == lives + 1
    assert await planner.search("a", manifest, Configuration(64 * MI)) is None


async def test_callers_take_turns(planner: Planner, manifest: Manifest) -> None:
    done: list[str] = []

    async def ask(key: str) -> None:
        await planner.take_in(key, manifest, (), 1e9)
        done.append(key)

    await asyncio.gather(*(ask(key) for key in "abcdef"))
    assert done == list("abcdef")


def told(at_s: float, seq: int | None = None, boot_id: str = "a", ids: int = 1) -> Page:
    row = {
        "timestamp": int(at_s * 1e3),
        "input_length": 512 * ids,
        "output_length": 1,
        "hash_ids": list(range(ids)),
        "observed_at": "engine",
        "weight": 1,
        "seq": int(at_s) if seq is None else seq,
        "boot_id": boot_id,
    }
    return Page(json.dumps(row).encode() + b"\n")


def test_the_trace_kept_of_all_caches_together_is_bounded(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = NodeLines.decode(TraceText("a page", told(1e9, ids=50).lines)).nbytes
    monkeypatch.setattr(planning, "MAX_TRACE_BYTES", 5 * each)
    monkeypatch.setattr(planning, "_memory", planning._Memory())
    for at in range(20):
        planning.take_in("large", manifest, (told(1e9 + at, ids=50),), 1e9 + at, None)
    planning.take_in("small", manifest, (told(1e9, ids=50),), 1e9, None)
    kept = {key: one.history.kept_bytes for key, one in planning._memory.caches.items()}
    assert kept == {"large": 4 * each, "small": each}


def test_a_line_is_decoded_once_however_often_it_is_planned_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_memory", planning._Memory())
    decode, decoded = NodeLines.decode, 0

    def counting(text: TraceText) -> NodeLines:
        nonlocal decoded
        decoded += text.data.count(b"\n")
        return decode(text)

    monkeypatch.setattr(NodeLines, "decode", counting)
    for minute in range(30):
        pages = told(1e6 + minute, minute, "a"), told(1e6 + minute, minute, "b")
        heard = planning.take_in("a", manifest, pages, 1e6 + minute, None)
        assert heard.demand is not None
        assert heard.demand.requests == 2 * (minute + 1)
    assert decoded == 60


def test_nothing_is_planned_on_lines_that_may_be_no_requests_and_the_reason_is_said(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_memory", planning._Memory())
    sure = json.loads(told(1e9, 0).lines) | {"observed_at": "node", "hit_blocks": 0}
    doubted = sure | {"seq": 1, "unreliable": "ranks"}

    def heard(row: dict[str, Any]) -> Heard:
        return planning.take_in("a", manifest, (Page(json.dumps(row).encode()),), 1e9, None)

    alone = heard(doubted)
    assert alone.demand is None
    assert ["100% of the requests" in note for note in alone.notes] == [True]
    both = heard(sure)
    assert both.demand is not None
    assert both.demand.requests == 1
    assert ["50% of the requests" in note for note in both.notes] == [True]


line = st.tuples(
    st.integers(0, 6),
    st.sampled_from("ab"),
    st.integers(0, 9),
    st.integers(0, 4),
    st.sampled_from(["engine", "node"]),
)


@settings(deadline=None)
@given(st.lists(line, min_size=1, max_size=25), st.lists(st.integers(0, 25), max_size=4))
def test_pages_together_are_the_trace_of_all_their_lines(rows: list[Any], cuts: list[int]) -> None:
    """Whatever the pages: told twice, out of order, of both grades, with gaps; against the definition."""
    lines = [
        json.loads(told(at_s, seq, boot, ids).lines) | {"observed_at": grade}
        for seq, boot, at_s, ids, grade in rows
    ]
    history = TraceHistory(1e9)
    ends = sorted({0, len(lines), *(min(cut, len(lines)) for cut in cuts)})
    for begin, end in pairwise(ends):
        history.add(Page("".join(json.dumps(one) + "\n" for one in lines[begin:end]).encode()), 0.0)
    trace = history.trace(512)
    assert trace is not None
    once = {(one["boot_id"], one["seq"]): one for one in lines}
    engines = [one for one in once.values() if one["observed_at"] == "engine"]
    wanted = sorted(engines or once.values(), key=lambda one: one["timestamp"])
    if not engines:  # what several nodes saw at the same time is one request
        parts = joined([msgspec.convert(one, TraceLine) for one in wanted])
        wanted = [msgspec.to_builtins(whole) for whole in parts]
    assert trace.observed_at == ("engine" if engines else "node")
    arrived_s = (trace.arrival_s + trace.started_at_s).tolist()
    assert arrived_s == pytest.approx([one["timestamp"] / 1e3 for one in wanted])
    asked = [trace.block_ids[trace.blocks_of(n)].tolist() for n in range(trace.requests)]
    assert asked == [one["hash_ids"] for one in wanted]
    seqs = {boot: {seq for name, seq in once if name == boot} for boot, _ in once}
    missing = sum(max(seen) - min(seen) + 1 - len(seen) for seen in seqs.values())
    assert any("missing" in note for note in trace.notes) == (missing > 0)
    assert any("more than once" in note for note in trace.notes) == (len(once) < len(lines))


curves = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=8).map(
    lambda points: HitCurve(
        np.array(sorted({c for c, _ in points})),
        np.array(sorted(r for _, r in points)[: len({c for c, _ in points})]),
    )
)


@settings(deadline=None)
@given(curves, curves)
def test_the_distance_of_two_curves_is_their_largest_difference(one: HitCurve, other: HitCurve) -> None:
    looked_up = [abs(one.hit_ratio_at(c) - other.hit_ratio_at(c)) for c in range(50)]
    assert one.distance(other) == other.distance(one) == pytest.approx(max(looked_up))
    assert one.distance(one) == 0


@settings(deadline=None)
@given(curves, st.integers(2, 8))
def test_a_thinned_curve_says_what_the_curve_says_at_its_points(curve: HitCurve, points: int) -> None:
    thin = curve.thinned(points)
    assert len(thin.capacity_blocks) <= max(points, 2)
    assert thin.hit_ratio_infinite == curve.hit_ratio_infinite
    assert all(thin.hit_ratio_at(c) == curve.hit_ratio_at(c) for c in thin.capacity_blocks)


def test_a_change_within_chance_is_no_change() -> None:
    curve = HitCurve(np.array([10]), np.array([0.5]))

    def demand(requests: int, ratio: float = 0.5) -> Demand:
        return Demand(
            requests=requests,
            blocks=requests * 10,
            span_s=600,
            inferred=False,
            curve=HitCurve(curve.capacity_blocks, np.array([ratio])),
            seen_prefix_hit_ratio=None,
        )

    assert not moved(demand(100), demand(125), 0.03)  # 3 / sqrt(100) = 30 %
    assert moved(demand(100), demand(150), 0.03)
    assert not moved(demand(10_000), demand(10_250), 0.03)
    assert moved(demand(10_000), demand(10_400), 0.03)
    assert moved(demand(100), demand(100, 0.54), 0.03)
    assert not moved(demand(100), demand(100, 0.52), 0.03)


def children() -> list[int]:
    """Process ids of the planning processes this process has started."""
    pids = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_nothing_asked_is_told_from_what_is_not_known(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_memory", planning._Memory())
    window_s = manifest.cache.spec.scaling.window

    def take_in(at_s: float, *pages: Page, before: Trace | None = None) -> Heard:
        return planning.take_in("a", manifest, pages, at_s, before)

    assert take_in(1e6) == Heard(None)
    assert not take_in(1e6, Page(b"", gap_lines=3)).complete
    assert not take_in(1e6, Page(b"{}\n")).complete
    monkeypatch.setattr(planning, "_memory", planning._Memory())
    heard = take_in(1e6 + 10, told(1e6))
    assert heard.demand is not None
    assert heard.demand.requests == 1
    # The workload to begin with counts for one window, and not again once the trace kept is empty.
    planned_for = generate(profile="chat", requests=20, rate_per_s=2.0, seed=1)
    assert take_in(1e6 + 20, before=planned_for).demand is not None
    for windows in (1.1, 5.0):
        idle = take_in(1e6 + windows * window_s, before=planned_for)
        assert (idle.demand, idle.complete) == (None, True)
