"""Kubelet, StatefulSet controller and volumes, as they were seen to behave.

Time goes in ticks. What a real cluster does late, this one does a tick or more late; what it refuses, this
one refuses.
"""

import random
from dataclasses import dataclass, field

from tests.converge.simulated_node import SLOT, Disk, Node, uids

from kvtide_operator.world.cluster import PodResize

TICK_S = 5.0
PROCESS_BYTES = 60 << 20
SENT_PER_TICK = 6
GIVEN_BACK_PER_TICK_BYTES = 64 << 20


@dataclass
class Claim:
    wanted: int
    actual: int
    uid: str = field(default_factory=lambda: f"claim-{next(uids)}")
    disk: Disk = field(default_factory=Disk)
    deleting: bool = False
    problem: str | None = None
    storage_class: str = "fast"
    grown_s: float | None = None
    handed: bool = False  # to the cache, when its set was made anew: no set deletes it any more


@dataclass
class Pod:
    ordinal: int
    wanted: int
    template_hash: str
    claim: Claim | None
    made_s: float
    uid: str = field(default_factory=lambda: f"pod-{next(uids)}")
    version: int = 0
    ip: str = field(
        default_factory=lambda: "10.{}.{}.{}".format(*divmod((n := next(uids)) // 250, 250), n % 250)
    )
    actual: int | None = None
    seen: int | None = None
    node: Node | None = None
    deleting: bool = False
    restarts: int = 0
    resize: PodResize | None = None
    hangs_until_s: float = 0.0
    wanted_cpu: int = 500
    cpu: int = 500
    disk: Disk = field(default_factory=Disk)


class Kubernetes:
    """One machine of ``room_bytes``, a StatefulSet, its pods and claims by ordinal."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now_s = 1_000_000.0
        self.room_bytes = 1 << 40
        self.room_cpu = 1 << 20
        self.set = None
        self.pods, self.claims = {}, {}
        self.no_pods = False
        self.expandable, self.expansion_fails = True, None
        self.file_system_bytes = None  # where it has less room than its volume says

    def tick(self):
        self.now_s += TICK_S
        self._stateful_set()
        for pod in list(self.pods.values()):
            self._kubelet(pod)
        for claim in self.claims.values():
            if self.expansion_fails:
                claim.problem = self.expansion_fails if claim.actual < claim.wanted else None
            elif claim.actual < claim.wanted and self.random.random() < 0.2:
                claim.actual, claim.problem = claim.wanted, None
        for pod in self.pods.values():
            if pod.node is not None:
                self._move(pod.node)
                pod.node.garbage_bytes = max(0, pod.node.garbage_bytes - GIVEN_BACK_PER_TICK_BYTES)

    def _stateful_set(self):
        for ordinal, pod in list(self.pods.items()):
            if pod.deleting:
                pod.node = None
                del self.pods[ordinal]
                claim = self.claims.get(ordinal)
                if self.set is not None and ordinal >= self.set.replicas and claim and not claim.handed:
                    del self.claims[ordinal]
        for ordinal, claim in list(self.claims.items()):
            used = ordinal in self.pods and self.pods[ordinal].claim is claim
            if claim.deleting and not used:
                del self.claims[ordinal]
        if self.set is not None:
            self._make_pods()

    def _make_pods(self):
        """In batches of 1, 2, 4 …, none behind one with a failure; pods that are too many go after that."""
        at, batch = 0, 1
        while at < self.set.replicas:
            fit = [self._has_pod(ordinal) for ordinal in range(at, min(at + batch, self.set.replicas))]
            if not all(fit):
                return
            at, batch = at + batch, batch * 2
        for ordinal, pod in self.pods.items():
            if ordinal >= self.set.replicas:
                pod.deleting = True

    def _has_pod(self, ordinal):
        """Make a pod where there is none; False where it is not as the set says and cannot be made so."""
        claim = None
        if self.set.claim_bytes is not None:
            size = self.set.claim_bytes
            claim = self.claims.get(ordinal)
            if claim is None:
                named = self.set.claim_class or "fast"
                claim = self.claims[ordinal] = Claim(size, size, storage_class=named)
        pod = self.pods.get(ordinal)
        if pod is not None:
            return claim is None or pod.claim is not None  # a pod is never given a volume
        if not self.no_pods and (claim is None or not claim.deleting):
            self.pods[ordinal] = Pod(
                ordinal, self.set.memory_bytes, self.set.template_hash, claim, self.now_s
            )
        return True

    def _kubelet(self, pod):
        if pod.deleting:
            return
        if pod.node is None:
            if self._reserved(pod) + pod.wanted <= self.room_bytes and self.now_s > pod.made_s + TICK_S:
                pod.actual = pod.seen = pod.wanted
                pod.node = Node(pod, pod.disk if pod.claim is None else pod.claim.disk, pod.claim is not None)
            return
        if self.random.random() < 0.3:
            return  # has not looked yet
        pod.seen, before = pod.wanted, pod.resize
        reason = self._resized(pod)
        pod.resize = None
        if reason is not None:
            same = before is not None and before.reason == reason
            pod.resize = PodResize(reason, "in its words", before.since_s if same else self.now_s)
        if pod.resize != before:
            pod.version += 1

    def _resized(self, pod):
        if pod.wanted_cpu > self.room_cpu:
            return "Infeasible"
        if pod.wanted > pod.actual:
            if pod.wanted > self.room_bytes:
                return "Infeasible"
            if self._reserved(pod) + pod.wanted > self.room_bytes:
                return "Deferred"
        elif pod.wanted < pod.actual:
            in_use = self.usage(pod) + pod.node.page_cache_bytes
            hangs = self.now_s < pod.hangs_until_s
            if hangs or in_use > pod.wanted:
                return "Error"
        if (pod.wanted, pod.wanted_cpu) != (pod.actual, pod.cpu):
            pod.actual, pod.cpu = pod.wanted, pod.wanted_cpu
            pod.version += 1
        return None

    def _reserved(self, but):
        running = [pod for pod in self.pods.values() if pod is not but and pod.node is not None]
        return sum(max(pod.actual, min(pod.wanted, self.room_bytes)) for pod in running)

    def usage(self, pod):
        return PROCESS_BYTES + pod.node.resident

    def _move(self, node):
        if node.emptied:
            return
        queue = node.moving()
        late = self.now_s > node.mover_until_s
        for number in queue if late else queue[:SENT_PER_TICK]:
            target = self._by_id(node.view.topology.target(SLOT[number]).id)
            there = target is not None and target.disk.topology is not None
            if there and target.disk.topology.epoch >= node.disk.topology.epoch and not late:
                target.put(number)
            elif not late:
                return
            node.entries.discard(number)
            node.disk.ssd_entries.discard(number)
        node.emptied = not node.moving()

    def _by_id(self, node_id):
        nodes = (pod.node for pod in self.pods.values() if pod.node is not None)
        return next((node for node in nodes if node.disk.node_id == node_id), None)
