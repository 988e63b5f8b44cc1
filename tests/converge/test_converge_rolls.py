"""Restarts, leaders and edits by hand."""

import pytest

from kvtide_cachenode.contract.sizing import MI, limit_for
from kvtide_operator.decide.steps import DeletePod, RecreateSet, SetSpec
from kvtide_operator.decide.target import Target


def test_a_roll_without_ssd_empties_each_node_into_a_surge_first(settled):
    cluster = settled(768, entries=150, replicas=(3, 3))
    held = cluster.held_entries()
    cluster.log.clear()
    cluster.template_hash = "b"
    cluster.settle()
    assert {pod.template_hash for pod in cluster.pods.values()} == {"b"}
    assert sum(isinstance(step, DeletePod) for step in cluster.log) == 3
    assert max(step.replicas for step in cluster.log if isinstance(step, SetSpec)) == 4
    assert cluster.set.replicas == 3
    assert held == cluster.held_entries()


def test_a_roll_with_ssd_restarts_in_place(settled):
    cluster = settled(512, ssd=True)
    cluster.settle_to(512, 1024)
    cluster.log.clear()
    cluster.template_hash = "b"
    cluster.settle()
    assert sum(isinstance(step, DeletePod) for step in cluster.log) == 2
    assert max(step.replicas for step in cluster.log if isinstance(step, SetSpec)) == 2


def test_a_single_node_is_rolled_through_a_surge(settled):
    cluster = settled(256, entries=50, replicas=(1, 1))
    held = cluster.held_entries()
    cluster.template_hash = "b"
    cluster.settle()
    assert [pod.template_hash for pod in cluster.pods.values()] == ["b"]
    assert held == cluster.held_entries()


def test_a_template_that_does_not_run_costs_nothing_and_is_mended(settled):
    cluster = settled(512, entries=60)
    cluster.template_hash = "bad"
    cluster.room_bytes = sum(pod.actual for pod in cluster.pods.values())  # the surge has no room
    cluster.run(60)
    assert len(cluster.held_entries()) == 60
    assert {pod.template_hash for pod in cluster.pods.values() if pod.node} == {"a"}
    cluster.template_hash, cluster.room_bytes = "good", 1 << 40
    cluster.settle()
    assert {pod.template_hash for pod in cluster.pods.values()} == {"good"}
    assert len(cluster.held_entries()) == 60


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_a_tier_that_is_added_is_rolled_in(settled, nodes):
    """A StatefulSet with claims makes no pod behind one that has none."""
    cluster = settled(256 * nodes, entries=60, replicas=(nodes, nodes))
    with_ssd = settled(256 * nodes, ssd=True, replicas=(nodes, nodes))
    cluster.spec, cluster.template_hash = with_ssd.spec, "with-ssd"
    cluster.settle_to(256 * nodes, 128 * nodes)
    assert cluster.set.claim_bytes is not None
    assert len(cluster.nodes()) == len(cluster.claims) == nodes
    assert all(node.has_ssd and node.disk.ssd_bytes == 128 * MI for node in cluster.nodes())
    assert len(cluster.held_entries()) == 60


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_tier_that_is_removed_leaves_no_volume(settled, nodes):
    cluster = settled(256 * nodes, ssd=True, entries=60, replicas=(nodes, nodes))
    cluster.settle_to(256 * nodes, 128 * nodes)
    without = settled(256 * nodes, replicas=(nodes, nodes))
    cluster.spec, cluster.template_hash = without.spec, "without-ssd"
    cluster.settle_to(256 * nodes)
    cluster.run(5)
    assert cluster.set.claim_bytes is None
    assert not cluster.claims
    assert not any(node.has_ssd for node in cluster.nodes())
    assert len(cluster.nodes()) == nodes
    assert len(cluster.held_entries()) == 60


def test_a_volume_that_outlived_its_set_goes_with_its_seat(settled):
    cluster = settled(1024, ssd=True, replicas=(1, 4), max_memory=512 * MI)
    cluster.settle_to(1024, 256)
    cluster.settle_to(1024, 1024)
    assert any(isinstance(step, RecreateSet) for step in cluster.log)
    assert len(cluster.claims) > 1
    cluster.settle_to(256, 256)
    cluster.run(5)
    assert len(cluster.nodes()) == len(cluster.claims) == 1


def test_a_new_leader_fences_and_a_deposed_one_does_nothing(settled):
    cluster = settled()
    cluster.term = 2
    made = cluster.settle()
    assert {node.disk.version.term for node in cluster.nodes()} == {2}
    cluster.term = 1
    cluster.retarget(Target(1024 * MI))
    for _ in range(10):
        made = cluster.work()
        cluster.tick()
        assert made.steps == ()
    assert "follows a later leader" in made.waiting[0]


def test_what_users_change_by_hand_is_put_right(settled):
    cluster = settled(1024, entries=50, replicas=(2, 2))
    cluster.made_by_hand = True
    cluster.pods[0].wanted = limit_for(300 * MI)
    cluster.pods[0].version += 1
    for _ in range(10):
        cluster.tick()
    assert cluster.pods[0].actual == limit_for(300 * MI)
    cluster.settle()
    cluster.made_by_hand = False
    cluster.check()
    assert cluster.pods[0].actual == limit_for(512 * MI)
    assert cluster.set.memory_bytes == limit_for(512 * MI)
