"""The world as a pass looks at it: one seat for each ordinal, what is known of it, what it shall become."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from kvtide_cachenode.contract.sizing import capacity_for
from kvtide_operator.api.quantity import parse_cpu
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.steps import Held, NodeSizes
from kvtide_operator.world.cluster import CacheWorld, ClaimState, PodState
from kvtide_operator.world.nodes import NodeState


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long something is waited for, in seconds, before it is given up.

    Attributes:
        infeasible_s: the kubelet says that its machine is too small; only another size changes that.
        deferred_s: the kubelet waits for room that others have.
        refused_s: a resize that does not end. The kubelet tries a refused shrink again every 10 to 20 s, and
            may hang for 1 to 2 minutes after a container was restarted.
        lost_s: a pod that does not run; then its slots go to others.
        lost_with_volume_s: the same where a volume keeps its entries: a machine may start anew meanwhile.
        held_s: what was given up; then it is tried again.
    """

    infeasible_s: float = 30.0
    deferred_s: float = 120.0
    refused_s: float = 300.0
    lost_s: float = 120.0
    lost_with_volume_s: float = 600.0
    held_s: float = 600.0


DEADLINES: Final = Deadlines()


@dataclass(frozen=True, slots=True)
class Volumes:
    """How the SSD's volumes are sold.

    Attributes:
        storage_class: theirs; None for the cluster's own choice, which is never changed.
        grow_every_s: the least time between two growths of one volume.
    """

    storage_class: str | None = None
    grow_every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seat:
    """One ordinal of the set: its pod, volume claim and node, as far as they are there.

    A seat is *here* (its node answers), *absent* (its pod does not exist or its container does not run, so
    its DRAM is gone) or *unknown*: it may hold entries, and nothing may be done on a guess.
    """

    ordinal: int
    name: str
    pod: PodState | None
    claim: ClaimState | None
    node: NodeState | None
    why_silent: str = ""

    @property
    def absent(self) -> bool:
        """Whether no process of this seat can be running."""
        pod = self.pod
        return pod is None or (pod.memory_bytes is None and not pod.deleting and pod.unreadable is None)

    @property
    def running(self) -> tuple[PodState, NodeState] | None:
        """Pod and node of a seat that is here."""
        return None if self.pod is None or self.node is None else (self.pod, self.node)

    @property
    def unknown(self) -> bool:
        """Whether there may be a node that does not answer."""
        return self.node is None and not self.absent


@dataclass(frozen=True)
class View:
    """All seats and what they shall become.

    Attributes:
        name: of the cache, and of its StatefulSet.
        sizes: of every node that is not held; ``replicas`` without a surge.
        share_memory_bytes: the limit of an equal share, were nobody held: what a pod to come begins with.
        held: by the pod's name.
        storage_class: of the SSD's volumes; None for the cluster's own choice, which is never changed.
        wanted: how many replicas there shall be in the end of this pass's ways, a surge included.
        rolled: the seat that is emptied to be restarted.
    """

    name: str
    world: CacheWorld
    spec: TieredCacheSpec
    sizes: NodeSizes
    share_memory_bytes: int
    held: Mapping[str, Held]
    now_s: float
    term: int
    template_hash: str
    deadlines: Deadlines
    storage_class: str | None
    wanted: int
    rolled: int | None = None

    @cached_property
    def seats(self) -> tuple[Seat, ...]:
        """Those that are there and those that shall be."""
        return seats_of(self.world, self.name, range(max(current_replicas(self.world), self.wanted)))

    @cached_property
    def members(self) -> tuple[Seat, ...]:
        """Seats that shall be there."""
        return self.seats[: self.wanted]

    @property
    def leaving(self) -> tuple[Seat, ...]:
        """Seats that shall not be there any more."""
        return self.seats[self.wanted :]

    def lost(self, seat: Seat) -> bool:
        """Whether nobody waits for an absent seat any more: for one that leaves without a volume, never."""
        leaves_nothing = seat.ordinal >= self.wanted and seat.claim is None
        return seat.absent and (
            leaves_nothing or is_lost(seat, self.held.get(seat.name), self.now_s, self.deadlines)
        )

    @cached_property
    def awaited(self) -> tuple[Seat, ...]:
        """Seats whose state is not known, or that are about to come: until they are here, nothing moves."""
        return tuple(seat for seat in self.seats if seat.node is None and not self.lost(seat))

    def memory_bytes(self, seat: Seat) -> int:
        """The limit that a seat's container shall have."""
        held = self.held.get(seat.name)
        return self.sizes.memory_bytes if held is None or not held.memory_bytes else held.memory_bytes

    def cpu(self, seat: Seat) -> int | None:
        """Thousandths of a core that a seat's container shall request; None where its pod requests none."""
        if seat.pod is None or seat.pod.wanted_cpu is None:
            return None
        held = self.held.get(seat.name)
        if held is not None and held.cpu is not None:
            return held.cpu
        return parse_cpu(self.spec.nodes.template.cpu)

    def dram_bytes(self, seat: Seat) -> int:
        """What a seat's node shall hold in DRAM."""
        limit = self.memory_bytes(seat)
        return self.sizes.dram_bytes if limit == self.sizes.memory_bytes else capacity_for(limit)

    def weight(self, seat: Seat) -> int:
        """DRAM for which a seat gets slots: none for one that leaves or is emptied.

        A surge has the weight of the seat that is emptied, or of one that is lost meanwhile.
        """
        empty = seat.ordinal >= self.wanted or seat.ordinal == self.rolled
        return 0 if empty else self.dram_bytes(seat)

    def with_roll(self, wanted: int, rolled: int | None) -> "View":
        """The same with a surge and a seat to be emptied."""
        return replace(self, wanted=wanted, rolled=rolled)


def is_lost(seat: Seat, held: Held | None, now_s: float, deadlines: Deadlines) -> bool:
    """Whether an absent seat has been so for long enough."""
    if held is None or held.memory_bytes:
        return False
    patience_s = deadlines.lost_s if seat.claim is None else deadlines.lost_with_volume_s
    return now_s - held.since_s >= patience_s


def current_replicas(world: CacheWorld) -> int:
    """What the StatefulSet says; while it is made anew, what its pods say."""
    if world.stateful_set is not None:
        return world.stateful_set.replicas
    return max((pod.ordinal + 1 for pod in world.pods), default=0)


def seats_of(world: CacheWorld, name: str, ordinals: Iterable[int]) -> tuple[Seat, ...]:
    """The seats of these ordinals. A node whose pod is being deleted counts as one that does not answer."""
    pods = {pod.ordinal: pod for pod in world.pods}
    claims = {claim.ordinal: claim for claim in world.claims}
    seats = []
    for ordinal in ordinals:
        pod, claim, own = pods.get(ordinal), claims.get(ordinal), f"{name}-{ordinal}"
        if pod is None:
            seats.append(Seat(ordinal, own, None, claim, None, world.troubles.get(own, "")))
            continue
        serves = pod.ip is not None and pod.memory_bytes is not None and not pod.deleting
        node = world.nodes.get(pod.name) if serves else None
        said = world.troubles.get(pod.name) or world.silent.get(pod.name, "it is starting")
        why = pod.unreadable or ("its pod is being deleted" if pod.deleting else said)
        seats.append(Seat(ordinal, own, pod, claim, node, why))
    return tuple(seats)
