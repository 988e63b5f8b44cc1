"""Nodes that come, go, fall silent or are lost: where slots and entries end up."""

import pytest

from kvtide_cachenode.contract.sizing import MI, limit_for
from kvtide_operator.decide.target import Target


def test_pods_that_never_come_leave_their_part_to_the_others(settled):
    cluster = settled(entries=100, replicas=(2, 3), max_memory=limit_for(300 * MI))
    cluster.no_pods = True
    made = cluster.settle_to(800)
    assert cluster.sizes() == [300, 300]
    assert [held.pod for held in made.held] == ["chat-2"]
    assert len(cluster.held_entries()) == 100
    cluster.no_pods = False
    cluster.run(3)
    assert cluster.settle().held == ()
    assert len(cluster.nodes()) == 3
    assert len(cluster.held_entries()) == 100


@pytest.mark.parametrize("up", [True, False])
def test_scale_out_and_in(settled, up):
    few, many = 512, 1024
    cluster = settled(few if up else many, entries=100, replicas=(2, 4), max_memory=limit_for(256 * MI))
    assert cluster.sizes() == [256] * (2 if up else 4)
    cluster.settle_to(many if up else few)
    assert cluster.sizes() == [256] * (4 if up else 2)
    assert len(cluster.held_entries()) == 100


def test_more_and_smaller_nodes_keep_all(settled):
    """Old nodes shrink only when the new ones have their part."""
    cluster = settled(1024, entries=240, replicas=(2, 4))
    assert cluster.sizes() == [512, 512]
    cluster.spec = cluster.spec.model_copy(
        update={"nodes": cluster.spec.nodes.model_copy(update={"max_memory": limit_for(256 * MI)})}
    )
    cluster.settle()
    assert cluster.sizes() == [256] * 4
    per_slot_luck = 12  # entries do not spread evenly over slots
    assert len(cluster.held_entries()) >= 240 - per_slot_luck


def test_a_target_that_changes_before_a_source_has_begun_costs_nothing(settled):
    cluster = settled(576, entries=140, replicas=(2, 3), max_memory=limit_for(224 * MI))
    assert cluster.sizes() == [192] * 3
    held = cluster.held_entries()
    cluster.retarget(Target(352 * MI))
    cluster.work()
    cluster.tick()
    assert any(node.view.topology.moves for node in cluster.nodes())
    cluster.settle_to(672)
    assert cluster.sizes() == [224] * 3
    assert cluster.held_entries() == held


def test_new_nodes_that_come_one_after_the_other_get_their_slots_together(settled):
    cluster = settled(512, entries=100, replicas=(2, 4), max_memory=limit_for(256 * MI))
    cluster.retarget(Target(1024 * MI))
    cluster.run(2)
    cluster.pods[3].made_s += 40.0
    cluster.settle()
    assert cluster.nodes()[0].disk.topology.epoch == 3
    assert len(cluster.held_entries()) == 100


def test_a_silent_node_stops_all_that_moves(settled):
    cluster = settled(1024, entries=100, replicas=(2, 4), max_memory=limit_for(256 * MI))
    cluster.nodes()[1].silent = True
    cluster.retarget(Target(256 * MI))
    for _ in range(60):
        made = cluster.work()
        cluster.tick()
        assert made.steps == ()
    assert any("chat-1" in sentence for sentence in made.waiting)
    assert len(cluster.held_entries()) == 100
    cluster.nodes()[1].silent = False
    cluster.settle()
    assert cluster.sizes() == [128, 128]


def test_a_killed_node_comes_back_as_another_and_gets_its_slots(settled):
    cluster = settled(768, entries=100, replicas=(3, 3))
    epoch = cluster.nodes()[0].disk.topology.epoch
    lost = cluster.nodes()[1].entries
    cluster.kill_pod(1)
    cluster.tick()
    cluster.settle()
    topology = cluster.nodes()[0].disk.topology
    assert topology.epoch == epoch + 1
    assert topology.moves == ()
    assert {node.id for node in topology.nodes} == {node.disk.node_id for node in cluster.nodes()}
    assert len(cluster.held_entries()) == 100 - len(lost)
    cluster.fill(50)
    assert cluster.nodes()[1].entries


def test_a_node_with_a_volume_keeps_its_id_and_is_found_at_its_new_address(settled):
    cluster = settled(512, ssd=True)
    cluster.settle_to(512, 512)
    cluster.fill(200)
    before = cluster.nodes()[0].disk.node_id
    kept = set(cluster.nodes()[0].disk.ssd_entries)
    assert kept
    cluster.kill_pod(0)
    cluster.settle()
    node = cluster.nodes()[0]
    assert node.disk.node_id == before
    assert kept <= node.disk.ssd_entries
    where = {member.id: member.host for member in node.disk.topology.nodes}
    assert where[before] == cluster.pods[0].ip


def test_a_node_that_does_not_come_back_leaves_its_slots_to_the_others(settled):
    cluster = settled(768, entries=100, replicas=(3, 3))
    cluster.no_pods = True
    cluster.kill_pod(1)
    made = cluster.settle()
    assert [held.pod for held in made.held] == ["chat-1"]
    assert len(cluster.nodes()[0].disk.topology.nodes) == 2
    assert sum(cluster.sizes()) == 768
    cluster.no_pods = False
    cluster.run(4)
    assert cluster.settle().held == ()
    assert cluster.sizes() == [256, 256, 256]


@pytest.mark.parametrize("victim", [0, 2])
def test_source_or_target_is_killed_while_slots_move(settled, victim):
    cluster = settled(512, entries=120, replicas=(2, 4), max_memory=limit_for(256 * MI))
    cluster.retarget(Target(1024 * MI))
    while not any(node.view and node.view.topology.moves and not node.emptied for node in cluster.nodes()):
        cluster.work()
        cluster.tick()
    cluster.work()
    cluster.tick()
    here = cluster.held_entries()
    gone = cluster.pods[victim].node.entries
    cluster.kill_pod(victim)
    cluster.tick()
    cluster.settle()
    assert cluster.sizes() == [256] * 4
    assert here - gone <= cluster.held_entries()
