"""For every N: the Nth step of a whole way fails, or the operator dies there; the end is the same."""

import pytest
from tests.converge.simulated_cluster import Cluster
from tests.converge.simulated_node import RefusedError

from kvtide_cachenode.contract.sizing import MI, limit_for
from kvtide_operator.decide.target import Target

SMALL, LARGE = 256, 512
SCALED = {"replicas": (2, 3), "max_memory": limit_for(SMALL // 2 * MI)}
WAYS = {
    "grow": ({}, SMALL, LARGE, 0),
    "shrink": ({}, LARGE, SMALL, 0),
    "scale-out": (SCALED, SMALL, SMALL * 3 // 2, 0),
    "scale-in": (SCALED, SMALL * 3 // 2, SMALL, 0),
    "roll": ({"replicas": (1, 1)}, SMALL, SMALL, 0),
    "grow-ssd": ({"ssd": True}, SMALL, SMALL, 1024),
    "replace": ({"ssd": True, "reclaim": "Replace", "replicas": (1, 1)}, SMALL, SMALL, 256),
}
ENTRIES = 40


def begun(way):
    """A settled cluster with entries, to which the way's change has come."""
    options, before_mib, after_mib, ssd_mib = WAYS[way]
    cluster = Cluster(1, **options)
    cluster.retarget(Target(before_mib * MI, 512 * MI if way == "replace" else 0))
    cluster.settle()
    cluster.fill(ENTRIES)
    assert len(cluster.held_entries()) == ENTRIES
    cluster.log.clear()
    cluster.retarget(Target(after_mib * MI, ssd_mib * MI))
    if way == "roll":
        cluster.template_hash = "b"
    return cluster


def end_of(cluster):
    """What a way leads to, leaving out names that chance gives."""
    return (
        sorted(cluster.held_entries()),
        [(node.capacity, node.disk.ssd_bytes, node.ttl) for node in cluster.nodes()],
        [(pod.actual, pod.wanted, pod.template_hash, pod.restarts) for pod in cluster.pods.values()],
        [claim.actual for claim in cluster.claims.values()],
        (cluster.set.replicas, cluster.set.memory_bytes, cluster.set.claim_bytes),
        {node.disk.topology for node in cluster.nodes()} == {cluster.nodes()[0].disk.topology},
    )


class Fault:
    """Strikes at the Nth step, once."""

    def __init__(self, number, kind):
        self.left, self.kind, self.dead = number, kind, False

    def __call__(self, _):
        self.left -= 1
        if self.dead:
            return True
        if self.left != 0:
            return False
        self.dead = self.kind == "killed"
        if self.kind == "refused":
            raise RefusedError("Forbidden: for a moment")
        return True


@pytest.mark.parametrize("kind", ["lost", "killed"])
@pytest.mark.parametrize("way", WAYS)
def test_the_nth_step_fails(way, kind):
    whole = begun(way)
    whole.settle()
    assert len(whole.held_entries()) == ENTRIES
    wanted, steps = end_of(whole), 3 * len(whole.log)
    number = 0
    while number < steps:
        number += 1
        cluster, fault = begun(way), Fault(number, kind)
        while fault.left > 0:
            held = cluster.held
            if cluster.work(fault).settled and fault.left > 0:
                break
            if fault.dead:  # its status was not written, and another process goes on
                cluster.held = held
                cluster.term += 1
            cluster.tick()
        if fault.left > 0:
            break
        cluster.settle()
        assert end_of(cluster) == wanted, f"{way}: {kind} at step {number}"
    assert number > 3


def test_every_pass_may_be_done_twice():
    """Two operators that see the same world and both act, as in a failover without a fence."""
    for way in WAYS:
        whole = begun(way)
        whole.settle()
        cluster = begun(way)
        for _ in range(200):
            made = cluster.plan()
            for _ in range(2):
                for step in cluster.todo(made):
                    try:
                        cluster.take(step)
                    except RefusedError:
                        continue
            cluster.held = made.held
            if made.settled:
                break
            cluster.tick()
        cluster.settle()
        assert end_of(cluster) == end_of(whole), way
