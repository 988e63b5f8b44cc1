"""The life of CachePlans."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.api.cacheplan import CachePlan, CachePlanStatus
from kvtide_operator.decide.plans import KEPT, OVER, Circumstances, has_moved, is_needed, phase_of, review
from kvtide_operator.decide.target import Target

from .conftest import GIB, point

BASELINE = Target(64 * GIB)
HALF_WAY = Target(96 * GIB)
REACHED = Target(128 * GIB)


def now(mode="Auto", target=BASELINE, *, settled=True, at_s=1000.0, contradicted=None) -> Circumstances:
    return Circumstances(mode, target, settled, at_s, 0.03, contradicted)


def phases(plans, at) -> dict[str, str]:
    return {name: status.phase for name, status in review(plans, at).statuses.items()}


def reviewed(plan: CachePlan, at: Circumstances, *others: CachePlan) -> CachePlan:
    """The plan as it reads after its status was written."""
    return plan.model_copy(update={"status": review([plan, *others], at).statuses[plan.metadata.name]})


def said(plan: CachePlan) -> str:
    assert plan.status is not None
    return plan.status.conditions[0].message


def test_in_auto_a_plan_goes_from_proposed_to_applied(make) -> None:
    plan = reviewed(make(1), now())
    assert phase_of(plan) == "Proposed"
    assert said(plan) == "it is applied as soon as the policy permits"
    plan = reviewed(plan, now(target=HALF_WAY, settled=False))
    assert phase_of(plan) == "Applying"
    plan = reviewed(plan, now(target=REACHED, settled=False))
    assert phase_of(plan) == "Applying"
    plan = reviewed(plan, now(target=REACHED))
    assert phase_of(plan) == "Applied"
    assert plan.status.conditions[0].status == "True"


def test_in_advise_nothing_happens_without_approval(make) -> None:
    plan = make(1)
    waiting = review([plan], now("Advise"))
    assert waiting.active is None
    assert waiting.statuses["p1"].phase == "Proposed"
    assert "set spec.approved to true" in waiting.statuses["p1"].conditions[0].message
    approved = make(1, approved=True)
    agreed = review([approved], now("Advise"))
    assert agreed.active == approved
    assert agreed.statuses["p1"].phase == "Approved"
    assert phases([approved], now("Advise", HALF_WAY)) == {"p1": "Applying"}


def test_in_manual_nothing_is_applied(make) -> None:
    done = review([make(1, approved=True)], now("Manual"))
    assert done.active is None
    assert done.statuses["p1"].conditions[0].message == "mode is Manual: nothing is applied"


def test_a_newer_plan_takes_the_place_of_an_older(make) -> None:
    done = review([make(1), make(2)], now())
    assert {name: each.phase for name, each in done.statuses.items()} == {
        "p1": "Superseded",
        "p2": "Proposed",
    }
    assert done.statuses["p1"].conditions[0].message == "p2 takes its place"
    assert done.active.metadata.name == "p2"


def test_an_approved_plan_is_followed_though_a_newer_one_waits(make) -> None:
    done = review([make(1, approved=True), make(2)], now("Advise", HALF_WAY))
    assert {name: each.phase for name, each in done.statuses.items()} == {"p1": "Applying", "p2": "Proposed"}
    assert done.active.metadata.name == "p1"
    done = review([make(1, approved=True, phase="Applying"), make(2, approved=True)], now("Advise"))
    assert done.active.metadata.name == "p2"
    assert done.statuses["p1"].phase == "Superseded"


def test_a_plan_expires_unless_it_is_on_its_way(make) -> None:
    late = now("Advise", at_s=2000.0)
    done = review([make(1, valid_until_s=2000.0, approved=True)], late)
    assert done.active is None
    assert done.statuses["p1"].phase == "Expired"
    assert "it was valid until 1970-01-01T00:33:20Z" in done.statuses["p1"].conditions[0].message
    begun = make(1, valid_until_s=2000.0, approved=True, phase="Applying")
    assert phases([begun], replace(late, target=HALF_WAY)) == {"p1": "Applying"}


def test_an_approval_that_comes_too_late_is_answered_and_changes_nothing(make) -> None:
    old = reviewed(make(1), now("Advise"), make(2))
    approved = old.model_copy(update={"spec": old.spec.model_copy(update={"approved": True})})
    done = review([approved, make(2)], now("Advise"))
    assert done.active is None
    assert done.statuses["p1"].phase == "Superseded"
    said_once = done.statuses["p1"].conditions[0].message
    assert said_once == "p2 takes its place; the approval came too late, approve a newer plan"
    again = review([approved.model_copy(update={"status": done.statuses["p1"]}), make(2)], now("Advise"))
    assert again.statuses["p1"] == done.statuses["p1"]


def test_a_late_approval_does_not_stop_the_plan_that_is_on_its_way(make) -> None:
    going = make(1, approved=True, phase="Applying")
    late = make(2, approved=True, phase="Superseded")
    done = review([going, late, make(3)], now("Advise", HALF_WAY))
    assert done.active == going
    assert done.statuses["p1"].phase == "Applying"


def test_what_contradicts_its_plan_is_rolled_back_for_good(make) -> None:
    reason = "the hit ratio fell by 9 points where 2 more were expected"
    plan = reviewed(make(2, phase="Applied"), now(contradicted=reason), make(1, phase="Superseded"))
    assert phase_of(plan) == "RolledBack"
    assert said(plan) == reason
    assert review([plan], now(target=BASELINE)).active is None
    assert phases([plan], now(target=BASELINE)) == {"p2": "RolledBack"}


def test_an_applied_plan_stays_until_another_is_followed(make) -> None:
    applied = make(1, phase="Applied")
    newer = make(2, 200, baseline_gib=128)
    assert phases([applied, newer], now(target=REACHED)) == {"p1": "Applied", "p2": "Proposed"}
    further = now(target=Target(160 * GIB), settled=False)
    assert phases([applied, newer], further) == {"p1": "Superseded", "p2": "Applying"}


def test_sizes_that_no_plan_would_be_made_for_count_as_reached(make) -> None:
    assert phases([make(1)], now(target=Target(126 * GIB))) == {"p1": "Applied"}
    assert phases([make(1)], now(target=Target(120 * GIB))) == {"p1": "Applying"}


def test_leaving_auto_leaves_the_plan(make) -> None:
    done = review([make(1, phase="Applying")], now("Advise", HALF_WAY))
    assert done.statuses["p1"].phase == "Superseded"
    assert done.statuses["p1"].conditions[0].message == "mode is Advise: it is not followed any more"


def test_the_last_ten_are_kept_and_those_in_effect(make) -> None:
    plans = [make(1, phase="Applied"), *(make(n, phase="Superseded") for n in range(2, 20))]
    pruned = review(plans, now("Advise")).prune
    assert sorted(pruned) == sorted(f"p{n}" for n in range(2, 10))


@pytest.mark.parametrize(
    ("phase", "dram_gib", "gain", "needed"),
    [
        (None, 129, 0.2, False),  # as good as the same
        (None, 140, 0.2, True),
        (None, 140, 0.01, False),  # not worth it
        ("Applied", 140, 0.2, True),
        ("Superseded", 129, 0.2, False),
        ("RolledBack", 129, 0.2, False),  # it was tried
        ("RolledBack", 200, 0.2, True),
        ("Expired", 128, 0.2, True),
    ],
)
def test_a_plan_is_written_when_it_says_something_new(make, phase, dram_gib, gain, needed) -> None:
    plans = [make(1, 300, phase="Superseded"), make(2, phase=phase)]
    assert is_needed(point(dram_gib), gain, plans, 0.03) is needed


def test_the_first_plan_is_written_when_it_gains() -> None:
    assert is_needed(point(100), 0.03, [], 0.03)
    assert not is_needed(point(100), 0.02, [], 0.03)


def test_points_differ_by_class_and_by_either_size() -> None:
    assert has_moved(point(100), point(100, ssd_gib=1, tier_class="a"), 0.03)
    assert has_moved(point(100, ssd_gib=100, tier_class="a"), point(100, ssd_gib=110, tier_class="a"), 0.03)
    assert has_moved(point(100, ssd_gib=1, tier_class="a"), point(100, ssd_gib=1, tier_class="b"), 0.03)
    assert not has_moved(point(100), point(102), 0.03)


PHASES = [None, "Proposed", "Approved", "Applying", "Applied", *OVER]


@given(
    drawn=st.lists(
        st.tuples(st.sampled_from(PHASES), st.booleans(), st.sampled_from([500.0, 1e9])), max_size=14
    ),
    mode=st.sampled_from(["Manual", "Advise", "Auto"]),
    target=st.sampled_from([BASELINE, HALF_WAY, REACHED]),
    settled=st.booleans(),
    contradicted=st.sampled_from([None, "it got worse"]),
)
def test_reviews_keep_their_promises(drawn, mode, target, settled, contradicted) -> None:
    from .conftest import make as fixture

    make = fixture.__wrapped__()
    plans = [
        make(n, phase=phase, approved=approved, valid_until_s=until)
        for n, (phase, approved, until) in enumerate(drawn)
    ]
    at = now(mode, target, settled=settled, contradicted=contradicted)
    done = review(plans, at)
    assert set(done.statuses) == {plan.metadata.name for plan in plans}
    if done.active is not None:
        assert mode != "Manual"
        assert done.active.spec.approved or mode == "Auto"
        assert phase_of(done.active) not in OVER
    for plan in plans:
        if phase_of(plan) in OVER:
            assert done.statuses[plan.metadata.name].phase == phase_of(plan), "there is no way back"
    followed = [name for name, each in done.statuses.items() if each.phase in ("Applying", "Applied")]
    assert len(followed) <= 1, "a cache follows one plan"
    # Written and reviewed again without news, nothing changes but what follows a roll-back.
    if contradicted is None:
        after = [plan.model_copy(update={"status": done.statuses[plan.metadata.name]}) for plan in plans]
        again = review(after, replace(at, at_s=at.at_s))
        assert {name: each.phase for name, each in again.statuses.items()} == {
            name: each.phase for name, each in done.statuses.items()
        }
    for name in done.prune:
        assert done.statuses[name].phase in OVER
    assert len(plans) - len(done.prune) >= min(len(plans), KEPT)


def test_a_status_that_says_the_same_keeps_its_time(make) -> None:
    plan = reviewed(make(1), now(at_s=100.0))
    later = review([plan], now(at_s=900.0)).statuses["p1"]
    assert later == plan.status
    assert isinstance(later, CachePlanStatus)
    assert later.conditions[0].last_transition_time == 100.0


def test_an_older_plan_that_is_approved_takes_the_place_of_the_applied_one(make) -> None:
    done = review([make(1, approved=True), make(2, phase="Applied")], now("Advise", HALF_WAY))
    assert {name: each.phase for name, each in done.statuses.items()} == {
        "p1": "Applying",
        "p2": "Superseded",
    }
    assert "p1 takes its place" in done.statuses["p2"].conditions[0].message
