"""Anything at any time: targets, kills, lost calls, edits; and what holds at every moment all the same."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.converge.simulated_cluster import Cluster

from kvtide_cachenode.cluster.slots import SLOTS
from kvtide_cachenode.contract.sizing import MI, capacity_for, limit_for
from kvtide_operator.decide.target import Target

sizes = st.integers(4, 40).map(lambda number: number * 32 * MI)
passes = st.integers(0, 8)


class Anything(RuleBasedStateMachine):
    """Rules are what happens; `Cluster.check` and the invariants are what holds."""

    @initialize(
        seed=st.integers(0, 2**32),
        least=st.integers(1, 3),
        more=st.integers(0, 2),
        largest=st.sampled_from([None, 128, 256]),
        ssd=st.booleans(),
        reclaim=st.sampled_from(["Keep", "Replace"]),
    )
    def begin(self, seed, least, more, largest, ssd, reclaim):
        memory = None if largest is None else limit_for(largest * MI)
        self.cluster = Cluster(
            seed, replicas=(least, least + more), max_memory=memory, ssd=ssd, reclaim=reclaim
        )
        self.ssd = ssd
        self.cluster.settle()
        self.cluster.fill(60)

    @rule(dram=sizes, ssd=sizes, passes=passes)
    def a_new_target(self, dram, ssd, passes):
        self.cluster.retarget(Target(dram, ssd if self.ssd else 0, 60.0 if self.ssd else None))
        self.go_on(passes)

    @rule(passes=passes)
    def a_new_template(self, passes):
        self.cluster.template_hash += "x"
        self.go_on(passes)

    @rule(entries=st.integers(1, 40), passes=passes)
    def clients_store(self, entries, passes):
        self.cluster.fill(entries)
        self.go_on(passes)

    @rule(passes=st.integers(5, 40))
    def time_goes_on(self, passes):
        self.go_on(passes)

    def go_on(self, passes):
        for _ in range(passes):
            self.cluster.work()
            self.cluster.tick()

    @rule(ticks=st.integers(1, 10), passes=passes)
    def the_operator_is_away(self, ticks, passes):
        for _ in range(ticks):
            self.cluster.tick()
        self.go_on(passes)

    @rule(survives=st.integers(0, 3), passes=passes)
    def the_operator_dies_in_a_pass(self, survives, passes):
        held, left = self.cluster.held, [survives]

        def dead(_):
            left[0] -= 1
            return left[0] < 0

        self.cluster.work(dead)
        self.cluster.held = held
        self.cluster.term += 1
        self.cluster.tick()
        self.go_on(passes)

    @rule(number=st.integers(0, 4), passes=passes)
    def a_pod_is_killed(self, number, passes):
        self.cluster.kill_pod(number)
        self.go_on(passes)

    @rule(number=st.integers(0, 4), passes=passes)
    def a_node_crashes(self, number, passes):
        self.cluster.crash(number)
        self.go_on(passes)

    @rule(number=st.integers(0, 4), passes=passes)
    def a_node_falls_silent_or_speaks(self, number, passes):
        pod = self.cluster.pods.get(number)
        if pod is not None and pod.node is not None:
            pod.node.silent = not pod.node.silent
        self.go_on(passes)

    @rule(number=st.integers(0, 4), cache_mib=st.sampled_from([0, 50, 400]), passes=passes)
    def files_are_cached(self, number, cache_mib, passes):
        pod = self.cluster.pods.get(number)
        if pod is not None and pod.node is not None:
            pod.node.page_cache_bytes = cache_mib * MI
        self.go_on(passes)

    @rule(room=st.sampled_from([1, 2, 8, 1024]), passes=passes)
    def the_machine_fills_up_or_empties(self, room, passes):
        taken = sum(pod.actual for pod in self.cluster.pods.values() if pod.node is not None)
        self.cluster.room_bytes = max(taken, limit_for(room * 256 * MI))
        self.go_on(passes)

    @rule(no_pods=st.booleans(), passes=passes)
    def a_quota_on_pods(self, no_pods, passes):
        self.cluster.no_pods, self.cluster.calm = no_pods, False
        self.go_on(passes)

    @precondition(lambda self: self.ssd)
    @rule(works=st.booleans(), expandable=st.booleans(), passes=passes)
    def volumes_grow_or_not(self, works, expandable, passes):
        self.cluster.expansion_fails = None if works else "NodeResizeError: no"
        self.cluster.expandable = expandable
        self.go_on(passes)

    @rule(
        kinds=st.sets(st.sampled_from(["ResizePod", "ExpandClaim", "TellNode", "DeletePod", "SetSpec"])),
        passes=passes,
    )
    def calls_are_refused(self, kinds, passes):
        self.cluster.quota = (lambda step: type(step).__name__ in kinds) if kinds else None
        self.go_on(passes)

    @rule(replicas=st.integers(0, 4), passes=passes)
    def a_user_edits_the_set(self, replicas, passes):
        cluster = self.cluster
        if cluster.set is not None:
            cluster.set, cluster.calm = replace(cluster.set, replicas=replicas), False
        self.go_on(passes)

    @rule()
    def all_is_well_again_and_it_settles(self):
        self.mend()
        made = self.settle()
        cluster = self.cluster
        assert made.held == (), made.held
        nodes = cluster.nodes()
        assert len(nodes) == cluster.set.replicas
        total = sum(node.capacity for node in nodes)
        most = self.most_bytes()
        assert min(cluster.target.dram_bytes, most) <= total < cluster.target.dram_bytes + len(nodes) * MI
        assert {node.disk.topology for node in nodes} == {nodes[0].disk.topology}
        assert {node.id for node in nodes[0].disk.topology.nodes} == {node.disk.node_id for node in nodes}
        assert {pod.template_hash for pod in cluster.pods.values()} == {cluster.template_hash}
        before = (cluster.set, [pod.wanted for pod in cluster.pods.values()])
        assert cluster.work().steps == ()
        assert before == (cluster.set, [pod.wanted for pod in cluster.pods.values()])

    def teardown(self):
        if hasattr(self, "cluster"):
            self.all_is_well_again_and_it_settles()

    def most_bytes(self):
        spec = self.cluster.spec.nodes
        if spec.max_memory is None:
            return self.cluster.target.dram_bytes
        return spec.replicas.max * capacity_for(spec.max_memory)

    def mend(self):
        cluster = self.cluster
        cluster.room_bytes, cluster.no_pods, cluster.quota = 1 << 40, False, None
        cluster.expansion_fails, cluster.expandable = None, True
        for pod in cluster.pods.values():
            if pod.node is not None:
                pod.node.silent, pod.node.page_cache_bytes = False, 0

    def settle(self):
        """Past all that was given up."""
        for _ in range(4):
            for _ in range(30):
                self.cluster.work()
                self.cluster.tick()
            self.cluster.now_s += 700.0
            for _ in range(30):
                self.cluster.work()
                self.cluster.tick()
            made = self.cluster.settle()
            if not made.held:
                break
        return made

    @invariant()
    def nobody_is_killed_for_memory_and_nothing_is_lost_that_has_room(self):
        if hasattr(self, "cluster"):
            self.cluster.check()

    @invariant()
    def an_owner_lives_for_every_slot_of_nodes_that_nothing_happened_to(self):
        if not hasattr(self, "cluster") or not self.cluster.calm or self.cluster.set is None:
            return
        views = [node.view for node in self.cluster.nodes() if node.view is not None]
        restarting = any(
            self.cluster.pods.get(at) is None or self.cluster.pods[at].node is None
            for at in range(self.cluster.set.replicas)
        )
        if views and not restarting:
            assert all(any(view.owns(slot) for view in views) for slot in range(0, SLOTS, 1024))


def test_anything():
    run_state_machine_as_test(
        Anything, settings=settings(max_examples=15, stateful_step_count=20, deadline=None)
    )
