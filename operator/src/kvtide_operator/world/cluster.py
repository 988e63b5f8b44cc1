"""One cache on Kubernetes as it is: its StatefulSet, pods, volume claims, and the nodes inside the pods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kvtide_operator.world.nodes import NodeState

ResizeReason = Literal["Deferred", "Infeasible", "InProgress", "Error"]


@dataclass(frozen=True, slots=True)
class PodResize:
    """A resize that is not through: the kubelet's reason and words, and since when it says so."""

    reason: ResizeReason
    message: str
    since_s: float


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod of the set.

    Attributes:
        ready: its Ready condition; a node that is shut down or lost is not.
        deleting: it has a deletion timestamp.
        template_hash: of the pod template it was made from, resources left out.
        restarts: of the node's container.
        wanted_memory_bytes: the container's memory limit in the spec.
        memory_bytes: the limit that the container really has; None while it does not run.
        wanted_cpu: thousandths of a core that the container's spec requests; None where it requests none.
        cpu: those that it really has; None while it does not run.
        trouble: what keeps it from running, in the words of Kubernetes; None where nothing is known to.
        unreadable: why nothing else here can be believed; such a pod may well run.
        resize: a resize that is not through, None when there is none. One that the kubelet has not looked at
            yet (``status.observedGeneration`` is behind) is not through.
    """

    name: str
    ordinal: int
    uid: str
    resource_version: str
    ip: str | None
    ready: bool
    deleting: bool
    template_hash: str
    restarts: int
    wanted_memory_bytes: int
    memory_bytes: int | None
    resize: PodResize | None = None
    wanted_cpu: int | None = None
    cpu: int | None = None
    trouble: str | None = None
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimState:
    """A PersistentVolumeClaim of the set.

    Attributes:
        wanted_bytes: what it requests.
        actual_bytes: what its volume and file system have; None until it is bound.
        expandable: whether its StorageClass allows a volume to grow.
        problem: the words of a condition that says growing failed.
        grown_s: when a larger volume was asked for last, seconds since the epoch; None for never.
    """

    name: str
    ordinal: int
    uid: str
    resource_version: str
    storage_class: str | None
    wanted_bytes: int
    actual_bytes: int | None
    expandable: bool
    deleting: bool = False
    problem: str | None = None
    grown_s: float | None = None


@dataclass(frozen=True, slots=True)
class SetState:
    """The StatefulSet.

    Attributes:
        memory_bytes: the container's limit in its template.
        claim_bytes: the size in its claim template; None where it has none.
        claim_class: the StorageClass there; None where it names none.
    """

    uid: str
    resource_version: str
    replicas: int
    template_hash: str
    memory_bytes: int
    claim_bytes: int | None
    claim_class: str | None = None
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class CacheWorld:
    """All of one cache at one moment.

    Attributes:
        at_s: seconds since the epoch.
        nodes: what the node in each pod says of itself, by the pod's name.
        silent: why the node of a pod did not answer, by the pod's name.
        troubles: why a pod does not run or is not there, by the pod's name, as far as Kubernetes says it.
        unreadable: a sentence on each object that says what nobody understands.
    """

    at_s: float
    stateful_set: SetState | None
    pods: tuple[PodState, ...] = ()
    claims: tuple[ClaimState, ...] = ()
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
