"""A cluster to converge, and an operator that remembers nothing but what it wrote into the status.

`Cluster.check` asserts after every step what must hold at every moment.
"""

from dataclasses import replace

from tests.converge.simulated_kubernetes import Kubernetes
from tests.converge.simulated_node import ENTRY_BYTES, SLOT, Node, RefusedError, uids

from kvtide_cachenode.contract.sizing import MI, capacity_for, limit_for
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.converge import converge
from kvtide_operator.decide.split import node_sizes, ssd_for
from kvtide_operator.decide.steps import (
    DeleteClaim,
    DeletePod,
    ExpandClaim,
    RecreateSet,
    Refused,
    ResizePod,
    SetSpec,
    TellNode,
)
from kvtide_operator.decide.target import Target
from kvtide_operator.world.cluster import CacheWorld, ClaimState, PodResize, PodState, SetState
from kvtide_operator.world.nodes import NodeState, SsdState


class Cluster(Kubernetes):
    """All of it, and an operator that remembers nothing but what it wrote into the status."""

    def __init__(self, seed=0, *, replicas=(2, 2), max_memory=None, ssd=False, reclaim="Keep", volume=None):
        super().__init__(seed)
        self.spec = spec_of(replicas, max_memory, ssd, reclaim)
        self.volume = volume or Volume(step=32 * MI)
        self.target = Target(512 * MI)
        self.target_since_s = self.now_s
        self.template_hash = "a"
        self.storage_class = None
        self.held, self.refused = (), ()
        self.term = 1
        self.made_by_hand = False
        self.calm, self.moved_before = True, False
        self.quota = None  # what refuses an API call: a predicate of a step
        self.stored = 0
        self.log, self.last = [], None

    # What the operator sees.

    def world(self):
        nodes, silent = {}, {}
        for pod in self.pods.values():
            if pod.node is not None:
                if pod.node.silent:
                    silent[name_of(pod)] = "did not answer in time"
                else:
                    nodes[name_of(pod)] = self._node_state(pod)
        return CacheWorld(
            self.now_s,
            self.set,
            tuple(self._pod_state(pod) for _, pod in sorted(self.pods.items())),
            tuple(self._claim_state(*item) for item in sorted(self.claims.items())),
            nodes,
            silent,
        )

    def _pod_state(self, pod):
        resize = pod.resize
        unseen = pod.seen is not None and (pod.seen, pod.cpu) != (pod.wanted, pod.wanted_cpu)
        if resize is None and unseen:
            resize = PodResize("InProgress", "", self.now_s)
        return PodState(
            name_of(pod), pod.ordinal, pod.uid, str(pod.version), pod.ip if pod.node else None,
            pod.node is not None and not pod.node.silent, pod.deleting, pod.template_hash, pod.restarts,
            pod.wanted, pod.actual if pod.node else None, resize,
            pod.wanted_cpu, pod.cpu if pod.node else None,
        )  # fmt: skip

    def _claim_state(self, ordinal, claim):
        return ClaimState(
            f"ssd-chat-{ordinal}", ordinal, claim.uid, "1", claim.storage_class, claim.wanted, claim.actual,
            self.expandable, claim.deleting, claim.problem, claim.grown_s,
        )  # fmt: skip

    def _node_state(self, pod):
        node, disk = pod.node, pod.node.disk
        ssd_used = len(disk.ssd_entries) * ENTRY_BYTES
        shrinks_s = self.now_s - node.shrinks_since_s if node.resident > node.capacity else None
        ssd = (
            SsdState(disk.ssd_bytes, ssd_used, self.file_system_bytes or ssd_for(pod.claim.actual) + 32 * MI)
            if node.has_ssd
            else None
        )
        return NodeState(
            name_of(pod), node.capacity, node.used, node.resident, len(node.entries),
            capacity_for(node.sees_limit or pod.actual), ssd, node.ttl if node.has_ssd else None, shrinks_s,
            disk.node_id, 6379, disk.topology, node.emptied, disk.version, disk.version,
        )  # fmt: skip

    # The operator.

    def tick(self):
        super().tick()
        self.check()

    def plan(self):
        self.last = converge(
            self.world(), self.target, self.spec, name="chat", held=self.held, now_s=self.now_s,
            term=self.term, template_hash=self.template_hash, refused=self.refused, volume=self.volume,
            storage_class=self.storage_class, target_since_s=self.target_since_s,
        )  # fmt: skip
        return self.last

    def work(self, fails=lambda _: False):
        """A pass and what it asks for; ``fails`` says of each thing whether it is lost on the way."""
        made = self.plan()
        self.held, self.refused = made.held, ()
        self.moved_before = self.moved_before and not made.settled
        todo = self.todo(made)
        self.random.shuffle(todo)
        refused = []
        for step in todo:
            if fails(step):
                continue
            try:
                self.take(step)
            except RefusedError as error:
                if not isinstance(step, TellNode):
                    refused.append(Refused(step, str(error)))
            self.check()
        self.refused = tuple(refused)
        return made

    def todo(self, made):
        """Steps, and the set where it is not like that already."""
        wanted, now = made.stateful_set, self.set
        if wanted is None or (
            now is not None
            and now.template_hash == self.hash_of(wanted)
            and wanted == SetSpec(now.replicas, now.memory_bytes, now.claim_bytes, now.claim_class)
        ):
            return list(made.steps)
        return [*made.steps, wanted]

    def take(self, step):
        if self.quota is not None and self.quota(step):
            raise RefusedError("exceeded quota")
        self.log.append(step)
        match step:
            case RecreateSet(uid, _, claims):
                for ordinal, claim in self.claims.items():
                    claim.handed = claim.handed or f"ssd-chat-{ordinal}" in claims
                if self.set is not None and self.set.uid == uid:
                    self.set = None
            case ResizePod(pod, version, memory_bytes):
                one = self._pod(pod)
                if one is not None and str(one.version) == version:
                    one.wanted, one.version = memory_bytes, one.version + 1
                    one.wanted_cpu = step.cpu or one.wanted_cpu
            case TellNode(pod, document):
                one = self._pod(pod)
                if one is not None and one.node is not None and not one.node.silent:
                    one.node.put_desired(document, self.now_s)
            case ExpandClaim() | DeleteClaim():
                self._change_claim(step)
            case DeletePod(pod, uid, _):
                self._delete(self._pod(pod), uid)
            case _:
                self._apply(step)

    def _change_claim(self, step):
        claim = self.claims.get(int(step.claim.rpartition("-")[2]))
        if claim is None:
            return
        if isinstance(step, DeleteClaim):
            claim.deleting = claim.deleting or claim.uid == step.uid
            return
        assert self.expandable
        assert step.bytes >= claim.wanted, "a claim never shrinks"
        assert self.storage_class in (None, claim.storage_class), "grown, and then replaced"
        since_s = self.now_s - (claim.grown_s or 0.0)
        assert since_s >= self.volume.grow_every, "its provider refuses to grow it so soon"
        claim.wanted, claim.grown_s = step.bytes, self.now_s

    def _delete(self, pod, uid):
        if pod is None or pod.uid != uid:
            return
        if pod.node is not None:
            others = [self.pods.get(at) for at in range(self.set.replicas) if at != pod.ordinal]
            assert all(one is not None and one.node is not None for one in others), (
                "two nodes restart at once"
            )
            oversized = pod.claim is not None and pod.claim.deleting
            assert pod.template_hash != self.template_hash or oversized, "restarted for a size"
            assert pod.node.has_ssd or not pod.node.entries, "a restart that loses entries"
        pod.deleting = True

    def _apply(self, wanted):
        if self.set is None:
            self.set = SetState(
                f"set-{next(uids)}",
                "1",
                wanted.replicas,
                self.hash_of(wanted),
                wanted.memory_bytes,
                wanted.claim_bytes,
                wanted.claim_class,
            )
            return
        assert (wanted.claim_bytes, wanted.claim_class) == (self.set.claim_bytes, self.set.claim_class), (
            "volumeClaimTemplates are immutable"
        )
        newest = max((node.view.topology.epoch for node in self.nodes() if node.view is not None), default=0)
        for ordinal in range(wanted.replicas, self.set.replicas):
            node = self.pods[ordinal].node if ordinal in self.pods else None
            if node is not None and node.view is not None and node.view.topology.epoch == newest:
                assert not node.entries, "scaled in a node that holds entries"
                assert not any(node.view.owns(slot) for slot in set(SLOT.values())), "... or owns slots"
        self.set = replace(
            self.set,
            replicas=wanted.replicas,
            memory_bytes=wanted.memory_bytes,
            template_hash=self.hash_of(wanted),
        )

    def hash_of(self, wanted):
        """A template has no SSD where its set has no claims."""
        as_declared = (wanted.claim_bytes is not None) == (self.spec.ssd is not None)
        return self.template_hash if as_declared else f"{self.template_hash} before"

    def _pod(self, name):
        pod = self.pods.get(int(name.rpartition("-")[2]))
        return None if pod is None or pod.deleting else pod

    # What happens to it.

    def kill_pod(self, ordinal):
        """Deleted, or its machine is: another address, an empty state unless it has a volume."""
        pod = self.pods.pop(ordinal, None)
        if pod is not None:
            pod.node, self.calm = None, False

    def crash(self, ordinal):
        """The process ends; its container is started again in the same pod."""
        pod = self.pods.get(ordinal)
        if pod is not None and pod.node is not None:
            pod.node, self.calm = Node(pod, pod.node.disk, pod.node.has_ssd), False
            pod.restarts += 1
            pod.hangs_until_s = self.now_s + 100.0

    def retarget(self, target):
        self.target, self.target_since_s = target, self.now_s
        self.moved_before = any(node.view is not None and node.view.topology.moves for node in self.nodes())

    def fill(self, entries):
        """Clients store so many new entries: where the slot's owner is, or where it is moving to."""
        for _ in range(entries):
            number = self.stored = (self.stored + 1) % len(SLOT)
            slot = SLOT[number]
            views = [(node, node.view) for node in self.nodes() if node.view is not None]
            owners = [(node, view) for node, view in views if view.owns(slot)]
            if not owners:
                continue
            node, view = max(owners, key=lambda owner: owner[1].topology.epoch)
            target = view.topology.target(slot)
            node = node if target is None else self._by_id(target.id)
            if node is not None:
                node.put(number)
                node.losses.clear()  # what clients push out is not lost by anything done here

    def held_entries(self):
        nodes = [pod.node for pod in self.pods.values() if pod.node is not None]
        return set().union(*(node.entries | node.disk.ssd_entries for node in nodes))

    def settle(self, ticks=400):
        """Work and tick until nothing is to be done; the last pass."""
        for _ in range(ticks):
            made = self.work()
            if made.settled:
                return made
            self.tick()
        raise AssertionError(f"does not settle: {made.waiting} {made.steps} held {made.held}")

    def settle_to(self, dram_mib, ssd_mib=0):
        """A new target, and what was done on the way to it in ``log``; the last pass."""
        self.log.clear()
        self.retarget(Target(dram_mib * MI, ssd_mib * MI))
        return self.settle()

    def run(self, ticks):
        """Go on for a while, settled or not; the last pass."""
        for _ in range(ticks):
            made = self.work()
            self.tick()
        return made

    def order(self, pod="chat-0"):
        """What was done with one pod, in short."""
        done = []
        for step in self.log:
            if isinstance(step, TellNode) and step.pod == pod:
                done.append(("node", step.document.capacity.dram // MI))
            elif isinstance(step, ResizePod) and step.pod == pod:
                done.append(("pod", step.memory_bytes))
        return done

    # What must hold at every moment.

    def check(self):
        for pod in self.pods.values():
            node = pod.node
            if node is None:
                continue
            assert self.usage(pod) <= pod.actual, f"{name_of(pod)} is killed for memory"
            losses, node.losses = node.losses, []
            if self.calm and not self.held:
                self._check_losses(node, losses)
            if not self.made_by_hand:
                assert limit_for(node.capacity) <= max(pod.actual, limit_for(0)), (
                    f"{name_of(pod)} may outgrow its limit"
                )

    def _check_losses(self, node, losses):
        """Nothing was lost that the size to come could hold: nobody was killed, nor is held."""
        sizes = node_sizes(self.target, self.spec, self.volume)
        held = self.held_entries()
        for why, number in losses:
            if why == "as foreign":
                assert number in held, f"entry {number} was deleted and is nowhere else"
            elif not self.moved_before:
                assert node.capacity >= sizes.dram_bytes, f"entry {number} was evicted {why} too early"
                assert node.used + ENTRY_BYTES > node.capacity, f"entry {number} had room"

    def nodes(self):
        return [pod.node for _, pod in sorted(self.pods.items()) if pod.node is not None]

    def sizes(self):
        """DRAM of each node in MiB."""
        return [node.capacity // MI for node in self.nodes()]


def name_of(pod):
    return f"chat-{pod.ordinal}"


def spec_of(replicas, max_memory, ssd, reclaim):
    bounds = {"initial": "16Mi", "min": "16Mi", "max": "64Gi"}
    tiers = [{"name": "dram", "medium": "DRAM", "classes": ["dram"], "capacity": bounds}]
    if ssd:
        bounds = {"initial": "0", "min": "0", "max": "64Gi"}
        tiers.append(
            {"name": "ssd", "medium": "SSD", "classes": ["fast"], "capacity": bounds, "reclaim": reclaim}
        )
    nodes = {"replicas": {"min": replicas[0], "max": replicas[1]}}
    if max_memory is not None:
        nodes["maxMemory"] = str(max_memory)
    engine = {"kind": "VLLM", "gpuHour": "2", "profile": {"source": "Catalogue", "system": "h100_sxm"}}
    model = {"name": "m", "kvBytesPerToken": 1024}
    return TieredCacheSpec.model_validate({"model": model, "engine": engine, "tiers": tiers, "nodes": nodes})
