"""The status of a TieredCache: what is, what is wanted, why, and what was decided."""

from typing import Annotated

from pydantic import Field

from kvtide_operator.api.conditions import MAX_MESSAGE_CHARACTERS, Condition, Reported
from kvtide_operator.api.moment import Figure, Time
from kvtide_operator.api.point import Point
from kvtide_operator.api.quantity import Duration, Quantity
from kvtide_operator.api.tierclass import Medium

MAX_DECISIONS = 10

Sentence = Annotated[str, Field(max_length=MAX_MESSAGE_CHARACTERS)]
Address = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(max_length=253)]


class Endpoints(Reported):
    """Where clients connect."""

    redis: Address | None = None
    lm: Address | None = None


class LookedAfterBy(Reported):
    """The operator that follows a cache: its release, and the Lease by which one of its replicas leads.

    Attributes:
        lease: as NAMESPACE/NAME; another operator follows only once it is gone or has run out.
    """

    release: Name
    lease: Address


class Connection(Reported):
    """Where the arguments for LMCache, vLLM and SGLang are."""

    config_map: Name


class SubtreeTtl(Reported):
    """How long copies of a prefix subtree stay on SSD.

    Attributes:
        root: of the subtree, as the keys of its entries have it.
    """

    root: str = Field(max_length=32, pattern=r"^[0-9a-f]+$")
    ttl: Duration


class TtlGroups(Reported):
    """How long copies stay on SSD, by prefix subtree, at most the tier's ``ttl``.

    Attributes:
        other: of all others.
    """

    subtrees: tuple[SubtreeTtl, ...] = Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["root"]},
    )
    other: Duration


class TierStatus(Reported):
    """A tier over all its nodes.

    Attributes:
        class_name: the class in use.
        desired: the size that was decided.
        ttl: the decided idle time-out of a copy on SSD; absent where copies stay until space is needed.
        ttl_groups: that by prefix subtree, where it was decided so.
        actual: the size that the nodes report; absent while none answers.
        used: what they hold, in steps of a hundredth of the size.
        paid: what is paid for: the containers' memory, the volumes.
        hit_ratio: blocks hit in this tier / blocks requested; absent where it is not known.
        cost_per_hour: of what is paid for, in the currency of the class.
    """

    name: Name
    medium: Medium
    class_name: Name = Field(alias="class")
    desired: Quantity
    ttl: Duration | None = None
    ttl_groups: TtlGroups | None = None
    actual: Quantity | None = None
    used: Quantity | None = None
    paid: Quantity | None = None
    hit_ratio: Figure | None = None
    cost_per_hour: Figure | None = None


class HeldSize(Reported):
    """Why a node keeps another size than its share, and since when; ``cpu`` where it keeps that, too."""

    memory: Quantity
    cpu: str | None = Field(default=None, max_length=16)
    reason: Sentence
    since: Time


class CacheNodeStatus(Reported):
    """One node.

    Attributes:
        memory: the limit that its container has.
        dram: its DRAM capacity as it reports it; absent while it does not answer.
        ssd: its SSD capacity.
        held: a size it could not have.
        silent: why it does not answer.
    """

    name: Name
    ready: bool
    memory: Quantity | None = None
    dram: Quantity | None = None
    ssd: Quantity | None = None
    held: HeldSize | None = None
    silent: Sentence | None = None


class PredictionError(Reported):
    """Measured less simulated, of the point that is in effect."""

    hit_ratio: Figure | None = None
    ttft: Figure | None = None


class PlanStatus(Reported):
    """The newest plan.

    Attributes:
        name: of its CachePlan; absent where its point is where the cache is and none was written.
        point: the chosen one.
        baseline: where the cache was.
        savings: share of the tiers' cost that the point saves; below 0 it costs more.
    """

    name: Name | None = None
    point: Point
    baseline: Point
    savings: Figure
    prediction_error: PredictionError | None = None


class Sizes(Reported):
    """Sizes of the tiers over all nodes, and the class of the SSD while there is one."""

    dram: Quantity
    ssd: Quantity | None = None
    ssd_class: Name | None = None
    ttl: Duration | None = None


class DecisionStatus(Reported):
    """A decision: what was to change, why, and what came of it."""

    time: Time
    action: str = Field(max_length=32, pattern=r"^[A-Z][A-Za-z]*$")
    before: Sizes = Field(alias="from")
    after: Sizes = Field(alias="to")
    reason: Sentence
    outcome: Sentence | None = None


Word = Annotated[str, Field(max_length=64)]


class Summary(Reported):
    """The cache in the words that ``kubectl get`` shows; sizes are rounded.

    Attributes:
        nodes: ready / wanted.
        dram: the size there is / the one that was decided.
        ssd: the same of the SSD tier; absent without one.
        doing: what the operator is at; the conditions have the sentences.
    """

    nodes: Word
    dram: Word
    ssd: Word | None = None
    doing: Word


class TieredCacheStatus(Reported):
    """What the operator reports of a cache.

    Attributes:
        summary: for people.
        looked_after_by: the operator that writes this.
        hit_ratio: blocks hit in any tier / blocks requested.
        cost_per_hour: of all tiers.
        decisions: the last ten, newest first.
    """

    observed_generation: int | None = None
    summary: Summary | None = None
    looked_after_by: LookedAfterBy | None = None
    endpoints: Endpoints | None = None
    connection: Connection | None = None
    hit_ratio: Figure | None = None
    cost_per_hour: Figure | None = None
    tiers: tuple[TierStatus, ...] = Field(
        default=(),
        max_length=2,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    nodes: tuple[CacheNodeStatus, ...] = Field(
        default=(),
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    plan: PlanStatus | None = None
    decisions: tuple[DecisionStatus, ...] = Field(default=(), max_length=MAX_DECISIONS)
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
