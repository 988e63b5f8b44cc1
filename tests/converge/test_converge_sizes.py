"""Memory of nodes: what is done in which order, what is refused, given up and tried again."""

import pytest

from kvtide_cachenode.contract.sizing import MI, limit_for
from kvtide_operator.decide.steps import Refused, ResizePod, SetSpec, Target

PAST_HELD_S = 700.0


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
    cluster.settle_to(1024)
    assert cluster.order() == [("pod", limit_for(512 * MI)), ("node", 512)]
    assert len(cluster.held_entries()) == 120
    cluster.settle_to(256)
    assert cluster.order() == [("node", 128), ("pod", limit_for(128 * MI))]
    assert {pod.actual for pod in cluster.pods.values()} == {limit_for(128 * MI)}
    assert len(cluster.held_entries()) == 64
    assert [pod.restarts for pod in cluster.pods.values()] == [0, 0]
    assert cluster.set.memory_bytes == limit_for(128 * MI)


def test_a_growth_that_the_api_refuses_is_tried_again_while_nothing_else_moves(settled):
    cluster = settled(entries=100)
    cluster.quota = lambda step: isinstance(step, ResizePod) and step.pod == "chat-1"
    made = cluster.settle_to(1024)
    assert [(one.pod, one.refused) for one in made.held] == [("chat-1", True)]
    sizes, began_s = cluster.sizes(), cluster.now_s
    asked = []
    for _ in range(20):
        made = cluster.work()
        asked += [step.pod for step in made.steps]
        assert made.settled
        cluster.tick()
    assert set(asked) == {"chat-1"}
    assert cluster.sizes() == sizes
    cluster.quota = None
    cluster.run(30)
    assert cluster.last.held == ()
    assert cluster.sizes() == [512, 512]
    assert cluster.now_s - began_s < 600, "it did not wait for the hold to end"
    assert len(cluster.held_entries()) == 100


def test_a_refusal_rests_until_it_is_due(settled):
    cluster = settled()
    cluster.quota = lambda step: isinstance(step, ResizePod)
    cluster.settle_to(1024)
    cluster.refused = ()
    asked = [step for step in cluster.plan().steps if isinstance(step, ResizePod)]
    assert {step.pod for step in asked} == {"chat-0", "chat-1"}
    cluster.refused = tuple(Refused(step, "exceeded quota") for step in asked)
    assert cluster.plan().steps == ()


def test_a_refused_shrink_is_waited_for(settled):
    cluster = settled()
    node = cluster.nodes()[0]
    node.page_cache_bytes = 400 * MI
    cluster.retarget(Target(256 * MI))
    cluster.run(30)
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
    made = cluster.settle_to(256)
    assert cluster.order()[:3] == [("node", 128), ("pod", limit_for(128 * MI)), ("pod", limit_for(256 * MI))]
    assert cluster.order()[3][0] == "node"
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
    cluster.settle_to(256)
    made = cluster.settle_to(1024)
    assert (made.held, cluster.sizes()) == ((), [512, 512])


def test_a_node_that_gives_nothing_back_is_given_up_too(settled):
    cluster = settled(entries=20)
    cluster.nodes()[0].pinned_bytes = 150 * MI
    made = cluster.settle_to(256)
    assert [held.pod for held in made.held] == ["chat-0"]
    assert "gives no memory back" in made.held[0].reason
    assert cluster.sizes() == [256, 128]


def test_infeasible_without_a_place_for_more_is_the_largest_size_that_fits(settled):
    cluster = settled(entries=60)
    cluster.room_bytes = sum(pod.actual for pod in cluster.pods.values())
    made = cluster.settle_to(4096)
    assert cluster.sizes() == [256, 256]
    assert [held.pod for held in made.held] == ["chat-0", "chat-1"]
    assert "Infeasible" in made.held[0].reason
    assert {pod.wanted for pod in cluster.pods.values()} == {limit_for(256 * MI)}
    assert len(cluster.held_entries()) == 60
    cluster.kill_pod(0)  # one that restarts has room where it was
    cluster.run(20)
    assert cluster.pods[0].node is not None


def test_what_one_node_cannot_hold_another_one_does(settled):
    cluster = settled(entries=60, replicas=(2, 4))
    cluster.quota = lambda step: isinstance(step, ResizePod) and step.pod == "chat-0"
    made = cluster.settle_to(1024)
    assert [held.pod for held in made.held] == ["chat-0"]
    assert "exceeded quota" in made.held[0].reason
    assert len(cluster.nodes()) == 3
    assert sum(cluster.sizes()) == pytest.approx(1024, abs=2)
    assert len(cluster.held_entries()) == 60


def test_deferred_is_waited_for(settled):
    cluster = settled()
    cluster.room_bytes = limit_for(400 * MI) * 2
    cluster.retarget(Target(1024 * MI))
    cluster.run(6)
    assert {pod.resize.reason for pod in cluster.pods.values() if pod.resize} == {"Deferred"}
    cluster.room_bytes = 1 << 40
    assert cluster.settle().held == ()
    assert cluster.sizes() == [512, 512]


def test_a_pod_that_is_too_large_to_start_is_made_again_smaller(settled):
    cluster = settled(1024, entries=50)
    cluster.room_bytes = cluster.pods[0].actual + limit_for(300 * MI)
    cluster.kill_pod(1)
    cluster.tick()
    assert cluster.pods[1].wanted == limit_for(512 * MI)
    cluster.settle_to(512)
    cluster.run(5)
    cluster.settle()
    assert cluster.sizes() == [256, 256]


def test_a_node_is_told_when_it_sees_its_limit(settled):
    cluster = settled()
    node = cluster.nodes()[0]
    node.sees_limit = cluster.pods[0].actual
    cluster.retarget(Target(1024 * MI))
    cluster.run(20)
    assert cluster.sizes() == [256, 512]
    assert "does not see its new limit" in str(cluster.last.waiting)
    node.sees_limit = None
    cluster.settle()
    assert cluster.sizes() == [512, 512]


def with_cpu(cluster, cpu):
    template = cluster.spec.nodes.template.model_copy(update={"cpu": cpu})
    nodes = cluster.spec.nodes.model_copy(update={"template": template})
    cluster.spec = cluster.spec.model_copy(update={"nodes": nodes})
    cluster.log.clear()


def test_another_cpu_request_is_taken_in_place_and_moves_nothing_else(settled):
    cluster = settled(512, entries=100)
    sizes = cluster.sizes()
    with_cpu(cluster, "2")
    assert cluster.settle().settled
    assert [pod.cpu for pod in cluster.pods.values()] == [2000, 2000]
    assert [type(step) for step in cluster.log] == [ResizePod, ResizePod]
    assert cluster.sizes() == sizes
    assert [pod.restarts for pod in cluster.pods.values()] == [0, 0]


def test_a_cpu_request_that_no_machine_has_is_given_up_and_sizes_go_on(settled):
    cluster = settled(512)
    cluster.room_cpu = 1000
    with_cpu(cluster, "4")
    made = cluster.settle()
    assert [(held.pod, held.cpu) for held in made.held] == [("chat-0", 500), ("chat-1", 500)]
    assert all("Infeasible" in held.reason for held in made.held)
    assert [pod.wanted_cpu for pod in cluster.pods.values()] == [500, 500]
    cluster.log.clear()
    assert cluster.settle().held == made.held
    assert cluster.log == []
    with_cpu(cluster, "750m")
    cluster.settle_to(1024)
    assert [pod.cpu for pod in cluster.pods.values()] == [750, 750]
    assert cluster.sizes() == [512, 512]
