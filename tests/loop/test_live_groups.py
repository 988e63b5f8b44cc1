"""TTL groups from the engines' trace to the nodes: what was planned is what entries are kept for."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kvtide_cachenode.engines.block_keys import names, trace_ids
from kvtide_cachenode.placement import root_in_key, root_of
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.situation import groups_of
from kvtide_operator.decide.target import Target, idle_timeouts, roots_of, ttl_s_of
from kvtide_operator.plan.bounds import bounds_of
from kvtide_operator.plan.groups import subtree_groups
from kvtide_operator.plan.hypervolume import Hypervolume
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.plan.live_groups import grouped_run, groups_below, popular_roots, with_groups
from kvtide_operator.plan.proposal import Goal, Plan
from kvtide_operator.plan.selector import Constraints, Selection
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.plan.trace_plan import PlanOptions, TracePlan, plan_trace
from kvtide_operator.plan.workers import inline
from kvtide_operator.planner.scenario import scenario_from
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.evaluator import Evaluator
from kvtide_operator.workload.trace import Trace, renumber

COMPILE_TIMEOUT_S = 300
"""Without a cache of compiled functions the first run takes a minute."""
pytestmark = pytest.mark.timeout(COMPILE_TIMEOUT_S)

SAMPLES = Path(__file__).parents[2] / "samples"
BLOCK_TOKENS = 256
DEPTH = 1
TTL_S = 120.0
REUSED_EVERY_S = 240.0
KEPT, BLOCKS = 20, 12


def chain(name: str, scans: str = "") -> list[bytes]:
    """Block hashes of a prompt: all share the first block, and each family's the second."""
    heads = ["system", name]
    return [sha256(f"{part}{scans if at > 1 else ''}".encode()).digest() for at, part in enumerate(
        [*heads, *(f"{name}/{depth}" for depth in range(2, BLOCKS))]
    )]  # fmt: skip


def requests() -> list[tuple[float, list[bytes]]]:
    """Twenty conversations that each come back, and twice as many prompts of two families that never do."""
    late_s = np.random.default_rng(1).uniform(0.0, 0.1 * REUSED_EVERY_S, 600)
    made = []
    for number in range(600):
        at_s = number * REUSED_EVERY_S / (3 * KEPT) + late_s[number]
        family = f"kept-{number // 3 % KEPT}" if number % 3 == 0 else f"scan-{number % 2}"
        made.append((at_s, chain(family) if number % 3 == 0 else chain(family, str(number))))
    made.sort(key=lambda request: request[0])
    return made


def trace_of(asked: list[tuple[float, list[bytes]]]) -> Trace:
    ids = [np.array(trace_ids(hashes, []), dtype=np.int64) for _, hashes in asked]
    lengths = np.array([len(each) for each in ids])
    blocks, unique = renumber(np.concatenate(ids))
    count = len(asked)
    return Trace(
        arrival_s=np.array([at_s for at_s, _ in asked]),
        input_tokens=(lengths * BLOCK_TOKENS).astype(np.int32),
        output_tokens=np.full(count, 16, dtype=np.int32),
        block_start=np.concatenate([[0], np.cumsum(lengths)]),
        blocks=blocks,
        block_ids=unique,
        weight=np.ones(count),
        block_tokens=BLOCK_TOKENS,
    )


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    document: dict[str, Any] = yaml.safe_load((SAMPLES / "vllm-large.yaml").read_text())
    document["spec"]["model"]["kvBytesPerToken"] = 4096
    document["spec"]["engine"] |= {"instances": 1, "gpuCache": 0}
    document["spec"]["tiers"][1]["admission"] = "Always"
    classes = [
        TierClass.model_validate(one)
        for one in yaml.safe_load_all((SAMPLES / "tierclasses.yaml").read_text())
    ]
    return Manifest(
        Path("x"), TieredCache.model_validate(document), {one.metadata.name: one for one in classes}
    )


@pytest.fixture(scope="module")
def evaluator(manifest: Manifest) -> Evaluator:
    return Evaluator(scenario_from(manifest, trace_of(requests())))


@pytest.fixture(scope="module")
def plan(evaluator: Evaluator) -> Plan:
    """A plan whose one TTL is shorter than any reuse: its block-seconds had better go where there is some."""
    dram_bytes = round(30 * evaluator.scenario.dram_block_bytes)
    space = SearchSpace(
        dram_bytes, dram_bytes, ttl_min_s=TTL_S, ttl_max_s=TTL_S, tier_classes=("essd-pl1",), volumes=2
    )
    goal = Goal(replace(space, ttl_max_s=3600.0), Constraints(), "Latency", groups=16, root_depth=DEPTH)
    options = PlanOptions(
        search=Kareto(),
        constraints=goal.constraints,
        prefer=goal.prefer,
        baseline=Configuration(dram_bytes, TTL_S, "essd-pl1", volumes=2),
    )
    found = plan_trace(
        evaluator, space, bounds_of(evaluator.scenario, space), options, inline(evaluator.evaluate)
    )
    refined = with_groups(found, evaluator, goal, options)
    assert refined is not None
    chosen, roots = refined
    return Plan(found.frontier, chosen, True, found.selection.chosen, 0.5, found.evaluations, "", roots)


def test_subtrees_are_told_apart_below_what_all_prompts_share(evaluator: Evaluator) -> None:
    trace = evaluator.scenario.trace
    roots = popular_roots(trace, DEPTH, 16)
    assert len(roots) == 16
    assert set(roots[:2]) == set(trace_ids(chain("scan-0")[1:2] + chain("scan-1")[1:2], []))
    assert (groups_below(trace, DEPTH, roots) == subtree_groups(trace, 16)).all()
    assert len(popular_roots(trace, 0, 16)) == 1


def test_ttls_go_where_the_reuse_is_and_cost_no_more(plan: Plan) -> None:
    assert plan.chosen.outcome.prefix_hit_ratio > plan.current.outcome.prefix_hit_ratio + 0.05
    groups = groups_of(plan)
    assert groups is not None
    by_root = dict(groups.by_root)
    scans = [by_root[root_of(trace_ids(chain(name), [])[DEPTH])] for name in ("scan-0", "scan-1")]
    assert max(scans) < TTL_S / 4, "only the block that all of a family share comes back"
    assert max(by_root.values()) >= REUSED_EVERY_S * 0.9


def test_nodes_find_the_ttl_of_each_key_that_engines_write(plan: Plan) -> None:
    target = Target(1 << 30, 1 << 30, 3600.0, groups_of(plan))
    told = idle_timeouts(target)
    kept = next(
        family
        for family in range(KEPT)
        if root_of(trace_ids(chain(f"kept-{family}"), [])[DEPTH]) in told.groups
    )
    keys = [name.key(b"0-1x1") for name in names(b"kvt:m:l", chain(f"kept-{kept}"), DEPTH, 0, BLOCKS)]
    found = [told.groups.get((root_in_key(key) or b"").decode()) for key in keys]
    assert found[0] is None, "what all prompts share is in no subtree"
    assert len(set(found[1:])) == 1
    assert found[1] is not None
    assert found[1] > TTL_S
    assert told.other == target.groups.other_s if target.groups else False
    short = idle_timeouts(replace(target, ttl_s=100.0))
    assert max(short.groups.values()) == 100.0


def test_what_nodes_have_is_simulated_as_it_was_chosen(evaluator: Evaluator, plan: Plan) -> None:
    target = Target(plan.chosen.configuration.dram_bytes, 1 << 40, 3600.0, groups_of(plan))
    here = replace(plan.chosen.configuration, ttl_s=ttl_s_of(target, 3600.0))
    again = grouped_run(evaluator, DEPTH, here, roots_of(target))
    assert again.outcome.prefix_hit_ratio == pytest.approx(plan.chosen.outcome.prefix_hit_ratio, abs=0.003)


def test_an_inferred_trace_has_no_groups(evaluator: Evaluator, plan: Plan) -> None:
    inferred = Evaluator(
        replace(evaluator.scenario, trace=replace(evaluator.scenario.trace, observed_at="node"))
    )
    space = SearchSpace(1 << 30, 1 << 30, tier_classes=("essd-pl1",))
    found = TracePlan(
        (),
        frozenset(),
        Selection(plan.current, True, {}, ""),
        plan.current,
        1,
        Hypervolume(0.0, (), ()),
        True,
    )
    options = PlanOptions(
        search=Kareto(), constraints=Constraints(), prefer="Latency", baseline=plan.current.configuration
    )
    assert with_groups(found, inferred, Goal(space, Constraints(), "Latency", 16), options) is None
