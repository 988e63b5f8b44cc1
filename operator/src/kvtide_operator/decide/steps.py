"""What one pass over a cache on Kubernetes may do: the vocabulary between decide and act."""

from dataclasses import dataclass, replace
from typing import Final

from kvtide_cachenode.contract.messages import Desired


@dataclass(frozen=True, slots=True)
class GroupTtls:
    """Idle time-outs on SSD by prefix subtree.

    Attributes:
        by_root: seconds by the root that the keys of a subtree carry.
        other_s: for all other keys.
    """

    by_root: tuple[tuple[str, float], ...]
    other_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """What the whole cache shall hold; an SSD of 0 bytes is none, a TTL of None keeps until full.

    The time-outs of ``groups`` are bounded by ``ttl_s``.
    """

    dram_bytes: int
    ssd_bytes: int = 0
    ttl_s: float | None = None
    groups: GroupTtls | None = None

    @property
    def sizes(self) -> "Target":
        """The same with one TTL, as decisions and plans write it."""
        return replace(self, groups=None)


@dataclass(frozen=True, slots=True)
class NodeSizes:
    """A target split over equal nodes, and what each needs of Kubernetes for that.

    Attributes:
        memory_bytes: the container's memory limit: arena and overhead.
        claim_bytes: the volume claim, None without an SSD tier.
    """

    replicas: int
    dram_bytes: int
    memory_bytes: int
    ssd_bytes: int
    claim_bytes: int | None


@dataclass(frozen=True, slots=True)
class SetSpec:
    """What the StatefulSet shall say now; on the way to a target it may differ from the target's sizes.

    ``claim_class`` is the StorageClass of its claims, None for the cluster's own choice.
    """

    replicas: int
    memory_bytes: int
    claim_bytes: int | None
    claim_class: str | None = None


@dataclass(frozen=True, slots=True)
class RecreateSet:
    """Delete the StatefulSet and orphan its pods and claims; the next pass creates it with other claims.

    Before that they are handed to the cache, by which they are known while there is no set.
    """

    uid: str
    pods: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResizePod:
    """Patch ``pods/resize``: memory limit and request of the node's container, and its CPU request.

    ``cpu`` is in thousandths of a core; None leaves it as it is.
    """

    pod: str
    resource_version: str
    memory_bytes: int
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class TellNode:
    """Hand a document to the node in a pod: PUT /v1/desired."""

    pod: str
    document: Desired


@dataclass(frozen=True, slots=True)
class ExpandClaim:
    """Patch a claim's request."""

    claim: str
    resource_version: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DeleteClaim:
    """Delete a claim, whose volume is to be replaced or is not needed any more."""

    claim: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete a pod, so that the StatefulSet makes it anew from its template."""

    pod: str
    uid: str
    reason: str


Step = RecreateSet | ResizePod | TellNode | ExpandClaim | DeleteClaim | DeletePod


@dataclass(frozen=True, slots=True)
class Refused:
    """A step that a rule, a right or a quota is against, and the words of the refusal."""

    step: Step
    sentence: str


REFUSED_SAID: Final = " of memory were refused: "
"""In the reason of a hold, which the status keeps for the next operator."""


@dataclass(frozen=True, slots=True)
class Held:
    """A node that keeps another size than its share: what it has, and why it cannot have more or less.

    Attributes:
        memory_bytes: the limit that it keeps; 0 for a node whose pod does not run, which has nothing.
        since_s: when it was given up; some time later, or with a newer target, it is tried again.
        cpu: the request in thousandths of a core that it keeps, where another one could not be had.
    """

    pod: str
    memory_bytes: int
    reason: str
    since_s: float
    cpu: int | None = None

    @property
    def refused(self) -> bool:
        """Whether it was the API that said no: then asking again disturbs nobody."""
        return REFUSED_SAID in self.reason


@dataclass(frozen=True, slots=True)
class Pass:
    """What to do now, all at once, and what is being waited for.

    Attributes:
        stateful_set: what the StatefulSet shall say; None leaves it alone in this pass.
        steps: independent of each other; the next pass looks at the world anew.
        waiting: a sentence on everything that is under way.
        held: nodes that gave up on their share; kept in status, so that the next pass knows.
        settled: the world is as the target says, or as near to it as it can be.
        deposed: the latest term that nodes follow, where that is above this leader's.
    """

    stateful_set: SetSpec | None
    steps: tuple[Step, ...] = ()
    waiting: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    settled: bool = False
    deposed: int | None = None
