"""Each situation by name: what is done, in which order, and what is left."""

import pytest

from kvtide_cachenode.sizing import MI, limit_for
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.decide.steps import (
    DeleteClaim,
    DeletePod,
    ExpandClaim,
    RecreateSet,
    ResizePod,
    SetSpec,
    Target,
    TellNode,
)

PAST_HELD_S = 700.0


def settle_to(cluster, dram_mib, ssd_mib=0):
    """A new target, and what was done on the way to it."""
    cluster.log.clear()
    cluster.retarget(Target(dram_mib * MI, ssd_mib * MI))
    return cluster.settle()


def run(cluster, ticks):
    """Go on for a while, settled or not; the last pass."""
    for _ in range(ticks):
        made = cluster.work()
        cluster.tick()
    return made


def order(cluster, pod="chat-0"):
    """What was done with one pod, in short."""
    done = []
    for step in cluster.log:
        if getattr(step, "pod", None) != pod:
            continue
        if isinstance(step, TellNode):
            done.append(("node", step.document.capacity.dram // MI))
        elif isinstance(step, ResizePod):
            done.append(("pod", step.memory_bytes))
        else:
            done.append((type(step).__name__,))
    return done


def test_first_creation(make_cluster):
    cluster = make_cluster(replicas=(3, 3))
    made = cluster.settle()
    assert made.held == ()
    topologies = {node.disk.topology for node in cluster.nodes()}
    assert [topology.epoch for topology in topologies] == [1]
    assert len(cluster.nodes()) == 3


def test_nothing_is_done_when_nothing_is_to_be_done(settled):
    cluster = settled(entries=50)
    for _ in range(5):
        made = cluster.work()
        cluster.tick()
        assert (made.steps, made.waiting, made.held, made.settled) == ((), (), (), True)
        assert made.stateful_set == SetSpec(2, limit_for(256 * MI), None)


def test_a_pod_grows_before_its_node_and_shrinks_after_it(settled):
    cluster = settled(entries=120)
    settle_to(cluster, 1024)
    assert order(cluster) == [("pod", limit_for(512 * MI)), ("node", 512)]
    assert len(cluster.held_entries()) == 120
    settle_to(cluster, 256)
    assert order(cluster) == [("node", 128), ("pod", limit_for(128 * MI))]
    assert {pod.actual for pod in cluster.pods.values()} == {limit_for(128 * MI)}
    assert len(cluster.held_entries()) == 64
    assert [pod.restarts for pod in cluster.pods.values()] == [0, 0]
    assert cluster.set.memory_bytes == limit_for(128 * MI)


def test_a_refused_shrink_is_waited_for(settled):
    cluster = settled()
    node = cluster.nodes()[0]
    node.page_cache_bytes = 400 * MI
    cluster.retarget(Target(256 * MI))
    run(cluster, 30)
    assert "cannot decrease" not in str(cluster.last.held)
    assert cluster.last.held == ()
    assert not cluster.last.settled
    node.page_cache_bytes = 0
    assert cluster.settle().held == ()
    assert cluster.sizes() == [128, 128]


def test_a_shrink_that_is_given_up_is_a_grow_and_tried_again_later(settled):
    cluster = settled()
    node = cluster.nodes()[0]
    node.page_cache_bytes = 400 * MI
    made = settle_to(cluster, 256)
    assert order(cluster)[:3] == [("node", 128), ("pod", limit_for(128 * MI)), ("pod", limit_for(256 * MI))]
    assert order(cluster)[3][0] == "node"
    assert cluster.sizes() == [256, 128]
    (held,) = made.held
    assert (held.pod, held.memory_bytes) == ("chat-0", limit_for(256 * MI))
    assert "does not end" in held.reason
    node.page_cache_bytes = 0
    cluster.now_s += PAST_HELD_S
    assert cluster.settle().held == ()
    assert cluster.sizes() == [128, 128]


def test_a_newer_target_ends_what_was_given_up(settled):
    cluster = settled()
    cluster.nodes()[0].page_cache_bytes = 400 * MI
    settle_to(cluster, 256)
    made = settle_to(cluster, 1024)
    assert (made.held, cluster.sizes()) == ((), [512, 512])


def test_a_node_that_gives_nothing_back_is_given_up_too(settled):
    cluster = settled(entries=20)
    cluster.nodes()[0].pinned_bytes = 150 * MI
    made = settle_to(cluster, 256)
    assert [held.pod for held in made.held] == ["chat-0"]
    assert "gives no memory back" in made.held[0].reason
    assert cluster.sizes() == [256, 128]


def test_infeasible_without_a_place_for_more_is_the_largest_size_that_fits(settled):
    cluster = settled(entries=60)
    cluster.room_bytes = sum(pod.actual for pod in cluster.pods.values())
    made = settle_to(cluster, 4096)
    assert cluster.sizes() == [256, 256]
    assert [held.pod for held in made.held] == ["chat-0", "chat-1"]
    assert "Infeasible" in made.held[0].reason
    assert {pod.wanted for pod in cluster.pods.values()} == {limit_for(256 * MI)}
    assert len(cluster.held_entries()) == 60


def test_what_one_node_cannot_hold_another_one_does(settled):
    cluster = settled(entries=60, replicas=(2, 4))
    cluster.quota = lambda step: isinstance(step, ResizePod) and step.pod == "chat-0"
    made = settle_to(cluster, 1024)
    assert [held.pod for held in made.held] == ["chat-0"]
    assert "exceeded quota" in made.held[0].reason
    assert len(cluster.nodes()) == 3
    assert sum(cluster.sizes()) == pytest.approx(1024, abs=2)
    assert len(cluster.held_entries()) == 60


def test_deferred_is_waited_for(settled):
    cluster = settled()
    cluster.room_bytes = limit_for(400 * MI) * 2
    cluster.retarget(Target(1024 * MI))
    run(cluster, 6)
    assert {pod.resize.reason for pod in cluster.pods.values() if pod.resize} == {"Deferred"}
    cluster.room_bytes = 1 << 40
    assert cluster.settle().held == ()
    assert cluster.sizes() == [512, 512]


def test_pods_that_never_come_leave_their_part_to_the_others(settled):
    cluster = settled(entries=100, replicas=(2, 3), max_memory=limit_for(300 * MI))
    cluster.no_pods = True
    made = settle_to(cluster, 800)
    assert cluster.sizes() == [300, 300]
    assert [held.pod for held in made.held] == ["chat-2"]
    assert len(cluster.held_entries()) == 100
    cluster.no_pods = False
    run(cluster, 3)
    assert cluster.settle().held == ()
    assert len(cluster.nodes()) == 3
    assert len(cluster.held_entries()) == 100


@pytest.mark.parametrize("up", [True, False])
def test_scale_out_and_in(settled, up):
    few, many = 512, 1024
    cluster = settled(few if up else many, entries=100, replicas=(2, 4), max_memory=limit_for(256 * MI))
    assert cluster.sizes() == [256] * (2 if up else 4)
    settle_to(cluster, many if up else few)
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
    settle_to(cluster, 512, 512)
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
    run(cluster, 4)
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


def test_a_volume_grows_before_what_is_put_there(settled):
    cluster = settled(512, ssd=True)
    settle_to(cluster, 512, 1024)
    expand = next(at for at, step in enumerate(cluster.log) if isinstance(step, ExpandClaim))
    told = [
        at
        for at, step in enumerate(cluster.log)
        if isinstance(step, TellNode) and step.document.capacity.ssd == 512 * MI
    ]
    assert len(told) == 2
    assert min(told) > expand
    assert {claim.actual for claim in cluster.claims.values()} == {cluster.set.claim_bytes}
    assert any(isinstance(step, RecreateSet) for step in cluster.log)
    assert not any(isinstance(step, DeletePod) for step in cluster.log)


def test_a_smaller_ssd_tier_holds_at_once_and_keeps_its_volume(settled):
    cluster = settled(512, ssd=True)
    settle_to(cluster, 512, 1024)
    size = cluster.set.claim_bytes
    settle_to(cluster, 512, 256)
    assert [type(step) for step in cluster.log if not isinstance(step, SetSpec)] == [TellNode, TellNode]
    assert {node.disk.ssd_bytes for node in cluster.nodes()} == {128 * MI}
    assert {claim.actual for claim in cluster.claims.values()} == {cluster.set.claim_bytes} == {size}


def test_replace_makes_volumes_smaller_one_at_a_time_and_loses_nothing(settled):
    cluster = settled(256, ssd=True, reclaim="Replace")
    settle_to(cluster, 256, 1024)
    cluster.fill(150)
    held = cluster.held_entries()
    size = cluster.set.claim_bytes
    settle_to(cluster, 256, 768)
    assert cluster.set.claim_bytes < size
    assert {claim.actual for claim in cluster.claims.values()} == {cluster.set.claim_bytes}
    assert sum(isinstance(step, DeleteClaim) for step in cluster.log) == 2
    assert len(cluster.nodes()) == 2
    assert held == cluster.held_entries()


@pytest.mark.parametrize("why", ["class", "provider", "quota"])
def test_a_volume_that_cannot_grow_is_filled_as_it_is(settled, why):
    cluster = settled(512, ssd=True, volume=Volume(step=32 * MI, min=256 * MI))
    if why == "class":
        cluster.expandable = False
    elif why == "provider":
        cluster.expansion_fails = "NodeResizeError: permission denied"
    else:
        cluster.quota = lambda step: isinstance(step, ExpandClaim)
    made = settle_to(cluster, 1024, 4096)
    assert cluster.sizes() == [512, 512]
    assert [held.pod for held in made.held] == ["chat-0", "chat-1"]
    assert all("ssd-chat-" in held.reason for held in made.held)
    assert all(100 * MI < node.disk.ssd_bytes < 256 * MI for node in cluster.nodes())
    cluster.expandable, cluster.expansion_fails, cluster.quota = True, None, None
    cluster.now_s += PAST_HELD_S
    run(cluster, 60)
    assert cluster.settle().held == ()
    assert {node.disk.ssd_bytes for node in cluster.nodes()} == {2048 * MI}


def test_killed_between_deleting_the_set_and_making_it_again(settled):
    cluster = settled(512, ssd=True)
    cluster.retarget(Target(512 * MI, 1024 * MI))
    while cluster.set is not None:
        cluster.work(fails=lambda step: isinstance(step, SetSpec))
        cluster.tick()
    for _ in range(3):
        cluster.tick()
    assert len(cluster.pods) == 2
    cluster.settle()
    assert cluster.set.replicas == 2
    assert [pod.restarts for pod in cluster.pods.values()] == [0, 0]


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
    settle_to(cluster, 512, 1024)
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
    run(cluster, 60)
    assert len(cluster.held_entries()) == 60
    assert {pod.template_hash for pod in cluster.pods.values() if pod.node} == {"a"}
    cluster.template_hash, cluster.room_bytes = "good", 1 << 40
    cluster.settle()
    assert {pod.template_hash for pod in cluster.pods.values()} == {"good"}
    assert len(cluster.held_entries()) == 60


def test_a_tier_that_is_added_is_rolled_in(settled):
    cluster = settled(512, entries=60)
    with_ssd = settled(512, ssd=True)
    cluster.spec, cluster.template_hash = with_ssd.spec, "with-ssd"
    settle_to(cluster, 512, 256)
    assert cluster.set.claim_bytes is not None
    assert all(node.has_ssd and node.disk.ssd_bytes == 128 * MI for node in cluster.nodes())
    assert len(cluster.held_entries()) == 60


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


def test_a_pod_that_is_too_large_to_start_is_made_again_smaller(settled):
    cluster = settled(1024, entries=50)
    cluster.room_bytes = cluster.pods[0].actual + limit_for(300 * MI)
    cluster.kill_pod(1)
    cluster.tick()
    assert cluster.pods[1].wanted == limit_for(512 * MI)
    settle_to(cluster, 512)
    run(cluster, 5)
    cluster.settle()
    assert cluster.sizes() == [256, 256]
