"""What the policy decides of the SSD beside its size: its class, and TTLs of subtrees."""

from dataclasses import replace

import pytest

from kvtide_operator.api.status import Sizes
from kvtide_operator.decide.effect import Contradiction
from kvtide_operator.decide.policy import judge
from kvtide_operator.decide.situation import Recommendation
from kvtide_operator.decide.target import GroupTtls

GI = 1 << 30

# The class of the recommendations so far, since when the loop watches, the gain; and the class in the end.
CLASSES = {
    "all agree": (["fast"] * 3, 3600, 0.5, "fast"),
    "one does not": (["fast", "slow", "fast"], 3600, 0.5, "slow"),
    "not watched for long": (["fast"] * 3, 300, 0.5, "slow"),
    "not worth it": (["fast"] * 3, 3600, 0.01, "slow"),
}


@pytest.mark.parametrize(("past", "watched_s", "gain", "then"), CLASSES.values(), ids=CLASSES)
def test_a_class_changes_when_a_whole_window_agrees(situation, make, past, watched_s, gain, then):
    recommended = [
        Recommendation(make.now_s - 60 * (n + 1), 128 * GI, 640 * GI, 900, name)
        for n, name in enumerate(past)
    ]
    verdict = judge(
        situation(
            make.target(128, 640, 900),
            make.candidate(128, 640, 900, "fast"),
            gain=gain,
            recommended=recommended,
            observing_since_s=make.now_s - watched_s,
        )
    )
    assert verdict.ssd_class == then
    assert verdict.action == ("ChangeClass" if then == "fast" else "Hold")


def test_a_class_is_free_while_there_is_no_ssd_and_none_without_one(situation, make):
    assert judge(situation(make.target(128), make.candidate(128, 640, 900, "fast"))).ssd_class == "fast"
    assert judge(situation(make.target(128, 16, 900), make.candidate(128))).ssd_class is None


GROUPS = GroupTtls((("00000000000007", 600.0), ("00000000000009", 0.0)), 60.0)


def grouped(make, ttl_s=(600.0, 0.0, 60.0)):
    """A plan to keep two subtrees for other times than the rest."""
    chosen = make.candidate(128, 640, 900)
    chosen = replace(chosen, configuration=replace(chosen.configuration, ttl_s=ttl_s))
    return replace(make.plan(chosen), roots=(7, 9))


def test_ttls_of_subtrees_are_the_plans_where_it_is_worth_it_and_long_enough_watched(situation, make):
    here = make.target(128, 640, 600)
    verdict = judge(situation(here, plan=grouped(make)))
    assert (verdict.action, verdict.target) == ("Retain", replace(here, groups=GROUPS))
    assert "by 2 subtrees" in judge(situation(here, plan=grouped(make), spec=make.spec(mode="Advise"))).reason
    early = situation(here, plan=grouped(make), observing_since_s=make.now_s - 60)
    assert judge(early).target.groups is None
    poor = replace(grouped(make), gain=0.001)
    assert judge(situation(replace(here, groups=GROUPS), plan=poor)).target.groups == GROUPS
    judged = judge(situation(replace(here, groups=GROUPS), plan=grouped(make)))
    assert judged.action == "Hold"


def test_where_every_block_is_in_a_subtree_others_are_kept_as_long_as_any(situation, make):
    verdict = judge(situation(make.target(128, 640, 600), plan=grouped(make, (600.0, 30.0))))
    assert verdict.target.groups == GroupTtls((("00000000000007", 600.0), ("00000000000009", 30.0)), 600.0)


def test_without_ssd_or_after_a_roll_back_there_are_no_subtrees(situation, make):
    here = replace(make.target(128, 16, 600), groups=GROUPS)
    assert judge(situation(here, make.candidate(128))).target == make.target(128)
    back = Contradiction(Sizes(dram=128 * GI, ssd=16 * GI, ttl=600), "it got worse")
    verdict = judge(situation(here, make.candidate(128, 16, 600), contradiction=back))
    assert (verdict.action, verdict.target) == ("RollBack", here.sizes)


def test_a_class_whose_effect_contradicts_the_plan_is_taken_back(situation, make):
    here = make.target(128, 640, 900)
    back = Contradiction(Sizes(dram=128 * GI, ssd=640 * GI, ssd_class="slow", ttl=900), "it got worse")
    verdict = judge(situation(here, make.candidate(128, 640, 900), ssd_class="fast", contradiction=back))
    assert (verdict.action, verdict.target, verdict.ssd_class) == ("RollBack", here, "slow")
