"""Volumes: grown before they are filled, kept or replaced, and what cannot grow."""

import pytest

from kvtide_cachenode.contract.sizing import MI
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.decide.steps import DeleteClaim, DeletePod, ExpandClaim, RecreateSet, SetSpec, TellNode
from kvtide_operator.decide.target import Target

PAST_HELD_S = 700.0


def test_a_volume_grows_before_what_is_put_there(settled):
    cluster = settled(512, ssd=True)
    cluster.settle_to(512, 1024)
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
    cluster.settle_to(512, 1024)
    size = cluster.set.claim_bytes
    cluster.settle_to(512, 256)
    assert [type(step) for step in cluster.log if not isinstance(step, SetSpec)] == [TellNode, TellNode]
    assert {node.disk.ssd_bytes for node in cluster.nodes()} == {128 * MI}
    assert {claim.actual for claim in cluster.claims.values()} == {cluster.set.claim_bytes} == {size}


def test_replace_makes_volumes_smaller_one_at_a_time_and_loses_nothing(settled):
    cluster = settled(256, ssd=True, reclaim="Replace")
    cluster.settle_to(256, 1024)
    cluster.fill(150)
    held = cluster.held_entries()
    size = cluster.set.claim_bytes
    cluster.settle_to(256, 768)
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
    made = cluster.settle_to(1024, 4096)
    assert cluster.sizes() == [512, 512]
    assert [held.pod for held in made.held] == ["chat-0", "chat-1"]
    assert all("ssd-chat-" in held.reason for held in made.held)
    assert all(100 * MI < node.disk.ssd_bytes < 256 * MI for node in cluster.nodes())
    cluster.expandable, cluster.expansion_fails, cluster.quota = True, None, None
    cluster.now_s += PAST_HELD_S
    cluster.run(60)
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


def test_a_file_system_with_less_room_than_its_volume_is_filled_all_the_same(settled):
    cluster = settled(512, ssd=True)
    cluster.file_system_bytes = 400 * MI + 12345
    made = cluster.settle_to(512, 1024)
    assert {node.disk.ssd_bytes for node in cluster.nodes()} == {384 * MI}
    assert all("less room" in held.reason for held in made.held)
    cluster.log.clear()
    cluster.file_system_bytes -= MI
    assert cluster.settle().held == made.held
    assert cluster.log == []


@pytest.mark.parametrize("reclaim", ["Keep", "Replace"])
def test_another_class_replaces_volumes_one_at_a_time_and_loses_nothing(settled, reclaim):
    cluster = settled(256, ssd=True, reclaim=reclaim)
    cluster.storage_class = "fast"
    cluster.settle_to(256, 1024)
    cluster.fill(150)
    held = cluster.held_entries()
    cluster.storage_class, cluster.volume = "slow", Volume(step=32 * MI, min=2048 * MI)
    cluster.log.clear()
    made = cluster.settle()
    assert {claim.storage_class for claim in cluster.claims.values()} == {cluster.set.claim_class} == {"slow"}
    assert {claim.actual for claim in cluster.claims.values()} == {2048 * MI}
    assert sum(isinstance(step, DeleteClaim) for step in cluster.log) == 2
    assert not any(isinstance(step, ExpandClaim) for step in cluster.log)
    assert len(cluster.nodes()) == 2
    assert made.held == ()
    assert held == cluster.held_entries()
    cluster.log.clear()
    assert cluster.settle().settled
    assert cluster.log == []


def test_another_class_and_a_node_killed_at_every_step(make_cluster):
    cluster = make_cluster(ssd=True)
    cluster.storage_class = "fast"
    cluster.settle_to(256, 512)
    cluster.storage_class = "slow"
    for _ in range(12):
        cluster.run(3)
        cluster.crash(0)
    cluster.settle()
    assert {claim.storage_class for claim in cluster.claims.values()} == {"slow"}


def test_without_a_class_named_volumes_stay_what_they_are(settled):
    cluster = settled(256, ssd=True)
    cluster.storage_class = "fast"
    cluster.settle_to(256, 512)
    cluster.storage_class = None
    cluster.log.clear()
    cluster.settle()
    assert cluster.log == []


def test_a_volume_grows_again_when_its_provider_lets_it(settled):
    cluster = settled(512, ssd=True, volume=Volume(step=32 * MI, grow_every=6 * 3600.0))
    cluster.settle_to(512, 1024)
    size = cluster.claims[0].actual
    made = cluster.settle_to(768, 2048)
    assert cluster.sizes() == [384, 384], "DRAM does not wait"
    assert {claim.actual for claim in cluster.claims.values()} == {size}
    assert [held.pod for held in made.held] == ["chat-0", "chat-1"]
    assert all("every 6h, again at 19" in held.reason for held in made.held)
    assert not any(isinstance(step, ExpandClaim) for step in cluster.log)
    cluster.log.clear()
    cluster.now_s += 3600.0
    assert cluster.settle().held == made.held, "nothing that is said moves while nothing happens"
    assert cluster.log == []
    cluster.now_s += 5 * 3600.0
    cluster.run(60)
    assert cluster.settle().held == ()
    assert {node.disk.ssd_bytes for node in cluster.nodes()} == {1024 * MI}
