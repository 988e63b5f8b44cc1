"""What the status of a cache says, and that it says nothing new when there is nothing new."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtide_cachenode.placement import root_of
from kvtide_operator.act.status import (
    remembered_holds,
    remembered_ssd_class,
    remembered_target,
    status_of,
    written,
)
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.status import DecisionStatus, PredictionError, Sizes
from kvtide_operator.decide.outcomes import has_failed
from kvtide_operator.decide.steps import Held, Pass
from kvtide_operator.decide.target import GroupTtls, Target
from kvtide_operator.world.cluster import ClaimState
from kvtide_operator.world.metrics import EngineMetrics, Value
from kvtide_operator.world.nodes import SsdState

from .conftest import GIB, MIB, NOW_S, SETTLED, WORLD, after, cache, node, plan, pod


def decision(
    at_s: float, to_gib: int = 6, reason: str = "6Gi is better", action: str = "Grow"
) -> DecisionStatus:
    return DecisionStatus(
        time=at_s, action=action, before=Sizes(dram=4 * GIB), after=Sizes(dram=to_gib * GIB), reason=reason
    )


def test_a_settled_cache_as_people_read_it(seen: StatusInputs) -> None:
    said = written(
        status_of(replace(seen, prices={"DRAM": lambda paid: paid / GIB * 0.01}, prefix_hit_ratio=0.314))
    )
    conditions = {each.pop("type"): each for each in said.pop("conditions")}
    assert said == {
        "observedGeneration": 3,
        "summary": {"nodes": "2/2", "dram": "4Gi/4Gi", "doing": "Settled"},
        "endpoints": {"redis": "redis://vllm-small.prod.svc:6379"},
        "connection": {"configMap": "vllm-small-connection"},
        "hitRatio": "0.31",
        "costPerHour": "0.06",
        "tiers": [
            {
                "name": "dram", "medium": "DRAM", "class": "dram-standard", "desired": "4Gi", "actual": "4Gi",
                "used": "2040Mi", "paid": "6Gi", "costPerHour": "0.06",
            }
        ],
        "nodes": [
            {"name": f"vllm-small-{n}", "ready": True, "memory": "3Gi", "dram": "2Gi"} for n in (0, 1)
        ],
        "decisions": [],
    }  # fmt: skip
    assert {name: each["status"] for name, each in conditions.items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "MetricsAvailable": "Unknown",
        "PlanCurrent": "Unknown",
        "ConstraintsMet": "Unknown",
        "ResizePending": "False",
    }
    assert conditions["Ready"] == {
        "status": "True", "reason": "NodesReady", "message": "2 nodes ready",
        "lastTransitionTime": "2026-01-31T12:00:00Z", "observedGeneration": 3,
    }  # fmt: skip


@settings(max_examples=30)
@given(
    used=st.integers(-20 * MIB, 20 * MIB),
    ratio=st.floats(-0.004, 0.004),
    later_s=st.floats(1, 1e6),
    entries=st.integers(0, 10**6),
)
def test_nothing_is_written_when_there_is_no_news(used, ratio, later_s, entries) -> None:
    before = StatusInputs(
        cache=cache(), world=WORLD, target=Target(4 * GIB), done=SETTLED, prefix_hit_ratio=0.314,
        hit_ratios={"DRAM": 0.314}, plan=plan(), plan_name="vllm-small-1",
        prediction_error=PredictionError(hit_ratio=0.01, ttft=0.07), decisions=(decision(NOW_S),),
    )  # fmt: skip
    before = after(before)
    stored = written(before.cache.status)
    nodes = {"vllm-small-0": node(0, used_bytes=GIB + used, entries=entries), "vllm-small-1": node(1)}
    now = replace(
        before,
        world=replace(WORLD, at_s=NOW_S + later_s, nodes=nodes),
        prefix_hit_ratio=0.314 + ratio,
        hit_ratios={"DRAM": 0.314 + ratio},
        decisions=(decision(NOW_S + later_s, reason="6Gi is better by 12.7%"),),
        plan=None,
        prediction_error=PredictionError(hit_ratio=0.011, ttft=0.0709),
    )
    before_reason = replace(now, decisions=())
    assert written(status_of(before_reason)) == stored
    assert written(status_of(now))["decisions"][1:] == stored["decisions"], "another sentence is news"


def test_figures_that_move_are_written(seen: StatusInputs) -> None:
    first = after(replace(seen, prefix_hit_ratio=0.31))
    nodes = {name: replace(state, used_bytes=2 * GIB) for name, state in WORLD.nodes.items()}
    said = status_of(replace(first, world=replace(WORLD, nodes=nodes), prefix_hit_ratio=0.33))
    assert said.hit_ratio == 0.33
    assert said.tiers[0].used is not None
    assert said.tiers[0].used > 3.9 * GIB


def test_metrics_go_before_traces(seen: StatusInputs) -> None:
    metrics = EngineMetrics(at_s=NOW_S, window_s=60.0, prefix_hit_ratio=Value(NOW_S, 0.42))
    assert status_of(replace(seen, metrics=metrics, prefix_hit_ratio=0.2)).hit_ratio == 0.42
    nothing = EngineMetrics(at_s=NOW_S, window_s=60.0)
    assert status_of(replace(seen, metrics=nothing, prefix_hit_ratio=0.2)).hit_ratio == 0.2
    assert status_of(replace(seen, metrics=nothing)).hit_ratio is None, "no data is not zero"


def test_two_tiers() -> None:
    nodes = {
        name: replace(state, ssd=SsdState(100 * GIB, 10 * GIB, 120 * GIB))
        for name, state in WORLD.nodes.items()
    }
    claims = tuple(
        ClaimState(f"ssd-vllm-large-{n}", n, "u", "1", "essd-pl1", 128 * GIB, 128 * GIB, expandable=True)
        for n in (0, 1)
    )
    seen = StatusInputs(
        cache=cache("vllm-large"),
        world=replace(WORLD, nodes=nodes, claims=claims),
        target=Target(4 * GIB, 200 * GIB, 5400.0),
        done=SETTLED,
        prices={"SSD": lambda paid: paid / GIB},
    )
    said = written(status_of(seen))
    assert said["tiers"][1] == {
        "name": "ssd", "medium": "SSD", "class": "essd-pl1", "desired": "200Gi", "ttl": "1h30m",
        "actual": "200Gi", "used": "20Gi", "paid": "256Gi", "costPerHour": "256",
    }  # fmt: skip
    assert said["nodes"][0]["ssd"] == "100Gi"
    assert "costPerHour" not in said, "of one tier the price is not known"
    assert said["endpoints"] == {"redis": "rediss://vllm-large.prod.svc:6379"}


@settings(max_examples=30)
@given(
    dram=st.integers(1, 2**50),
    ssd=st.integers(0, 2**50),
    ttl_s=st.none() | st.integers(0, 10**7).map(lambda micros: micros / 100),
    roots=st.dictionaries(st.integers(0, 2**53 - 1), st.integers(0, 10**7), max_size=16),
)
def test_an_operator_that_starts_anew_knows_what_was_wanted_and_given_up(dram, ssd, ttl_s, roots) -> None:
    held = Held("vllm-small-1", 2 * GIB, "Infeasible: the machine is full", NOW_S - 7, 1500)
    absent = Held("vllm-small-2", 0, "its pod does not run", NOW_S - 9)
    by_root = tuple(sorted((root_of(root), millis / 1000) for root, millis in roots.items()))
    target = Target(dram, ssd, ttl_s, GroupTtls(by_root, 7.5) if roots else None)
    seen = StatusInputs(
        cache=cache("vllm-large"),
        world=WORLD,
        target=target,
        ssd_class="essd-pl2",
        done=Pass(None, held=(held, absent), settled=True),
    )
    status = after(seen).cache.status
    assert remembered_target(status) == target
    assert remembered_ssd_class(status) == "essd-pl2"
    assert remembered_holds(status) == (held, absent)
    assert remembered_target(None) is None
    assert remembered_holds(None) == ()


def test_ten_decisions_newest_first(seen: StatusInputs) -> None:
    for n in range(14):
        seen = after(replace(seen, decisions=(decision(NOW_S + n, to_gib=5 + n),)))
    decisions = seen.cache.status.decisions
    assert [each.after.dram // GIB for each in decisions] == list(range(18, 8, -1))


def test_the_same_decision_with_other_figures_is_no_news(seen: StatusInputs) -> None:
    waits = decision(NOW_S, 4, "waits: 3 of 10 minutes", "Hold")
    seen = after(replace(seen, decisions=(waits,)))
    again = decision(NOW_S + 60, 4, "waits: 4 of 10 minutes", "Hold")
    assert status_of(replace(seen, decisions=(again,))).decisions == (waits,)
    other = decision(NOW_S + 60, 4, "metrics are stale", "Hold")
    assert status_of(replace(seen, decisions=(other,))).decisions == (other, waits)


def test_a_decision_tells_its_outcome_once(seen: StatusInputs) -> None:
    grow = decision(NOW_S - 12)
    seen = replace(
        seen, target=Target(6 * GIB), done=Pass(None, waiting=("chat-0 grows",)), decisions=(grow,)
    )
    under_way = status_of(seen)
    assert under_way.decisions[0].outcome is None
    settled = after(seen, done=SETTLED, decisions=())
    first = status_of(settled).decisions[0]
    assert first.outcome == "in effect after 12 s"
    later = after(settled, world=replace(WORLD, at_s=NOW_S + 500))
    assert status_of(later).decisions[0] == first


def test_a_move_tells_its_outcome_also_when_another_round_held_meanwhile(seen: StatusInputs) -> None:
    grow, hold = decision(NOW_S - 12), decision(NOW_S - 2, 6, "no gain", "Hold")
    hold = hold.model_copy(update={"before": hold.after})
    done = Pass(None, waiting=("chat-0 grows",))
    seen = replace(seen, target=Target(6 * GIB), done=done, decisions=(grow, hold))
    settled = after(seen, done=SETTLED, decisions=())
    newest, move = status_of(settled).decisions
    assert (newest.outcome, move.outcome) == (None, "in effect after 12 s")


def test_a_decision_that_could_not_be_carried_out_says_so(seen: StatusInputs) -> None:
    held = Held("vllm-small-1", 2 * GIB, "Infeasible: the machine is full", NOW_S)
    done = Pass(None, held=(held,), settled=True)
    said = status_of(replace(seen, target=Target(6 * GIB), done=done, decisions=(decision(NOW_S - 30),)))
    assert has_failed(said.decisions[0])
    assert "vllm-small-1: Infeasible: the machine is full" in said.decisions[0].outcome


def test_the_plan_is_kept_while_there_is_no_newer_one(seen: StatusInputs) -> None:
    first = after(replace(seen, plan=plan(), plan_name="vllm-small-7f3a"))
    said = first.cache.status.plan
    assert said.name == "vllm-small-7f3a"
    assert said.savings == 0.5
    assert status_of(replace(first, plan=None, plan_name=None)).plan == said
    assert status_of(replace(first, plan=plan(9), plan_name=None)).plan.name is None


def test_a_silent_node_is_said_and_has_no_size(seen: StatusInputs) -> None:
    world = replace(WORLD, nodes={"vllm-small-0": node(0)}, silent={"vllm-small-1": "no answer within 5 s"})
    said = written(status_of(replace(seen, world=world)))
    assert said["nodes"][1] == {
        "name": "vllm-small-1", "ready": True, "memory": "3Gi", "silent": "no answer within 5 s",
    }  # fmt: skip


def test_long_sentences_are_cut_to_what_the_api_takes(seen: StatusInputs) -> None:
    world = replace(WORLD, silent={"vllm-small-1": "x" * 5000})
    said = written(status_of(replace(seen, world=world, problem="y" * 5000)))
    assert len(said["nodes"][1]["silent"]) == 1024
    assert all(len(each["message"]) <= 1024 for each in said["conditions"])


@pytest.mark.parametrize("count", [0, 11])
def test_nodes_are_in_their_order(seen: StatusInputs, count: int) -> None:
    pods = tuple(pod(n) for n in reversed(range(count)))
    said = status_of(replace(seen, world=replace(WORLD, pods=pods)))
    assert [each.name for each in said.nodes] == [f"vllm-small-{n}" for n in range(count)]


def test_a_change_of_class_has_an_outcome_once_the_class_is_there(seen: StatusInputs) -> None:
    def sizes(name: str) -> Sizes:
        return Sizes(dram=4 * GIB, ssd=GIB, ssd_class=name)

    change = DecisionStatus(time=NOW_S, action="ChangeClass", before=sizes("a"), after=sizes("b"), reason="r")
    target = Target(4 * GIB, GIB)
    under_way = status_of(replace(seen, target=target, ssd_class="a", decisions=(change,)))
    assert under_way.decisions[0].outcome is None
    there = status_of(replace(seen, target=target, ssd_class="b", decisions=(change,)))
    assert there.decisions[0].outcome == "in effect after 0 s"
