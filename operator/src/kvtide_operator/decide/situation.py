"""What a decision about one cache starts from, and the dials that it turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final, Literal, Self

from kvtide_cachenode.placement import root_of
from kvtide_operator.api.quantity import format_duration, format_quantity
from kvtide_operator.api.status import DecisionStatus, PredictionError
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.effect import Contradiction
from kvtide_operator.decide.target import GroupTtls, Target
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Plan
from kvtide_operator.plan.speeds import Speeds
from kvtide_operator.world.metrics import EngineMetrics

TTL_STEP_S: Final = 30
"""TTLs move by whole steps of half a minute: nothing that an SSD keeps is sensitive to less."""

DialName = Literal["dram", "ssd", "ttl"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a past plan chose, and when; no SSD is 0 bytes."""

    at_s: float
    dram_bytes: int
    ssd_bytes: int = 0
    ttl_s: float = 0.0
    ssd_class: str | None = None

    @property
    def target(self) -> Target:
        """The same as a target."""
        return Target(self.dram_bytes, self.ssd_bytes, self.ttl_s if self.ssd_bytes else None)

    def amount(self, dial: DialName) -> int:
        """Bytes of a tier, or whole seconds."""
        return {"dram": self.dram_bytes, "ssd": self.ssd_bytes, "ttl": round(self.ttl_s)}[dial]


def groups_of(plan: Plan) -> GroupTtls | None:
    """The TTLs of the chosen point's subtrees; None where it has one TTL.

    They are rounded up to the millisecond: each is as long as the last reuse that it is for.
    """
    ttl_s = [ceil(each * 1000) / 1000 for each in plan.chosen.configuration.group_ttl_s]
    if not plan.roots:
        return None
    roots = [root_of(block_id) for block_id in plan.roots]
    # Where every block is in a subtree there is no TTL for others: those to come are kept as long as any.
    other_s = ttl_s[len(roots)] if len(ttl_s) > len(roots) else max(ttl_s)
    return GroupTtls(tuple(sorted(zip(roots, ttl_s, strict=False))), other_s)


def recommendation_of(chosen: Candidate, at_s: float) -> Recommendation:
    """What a candidate asks of each tier; of several TTLs the longest bounds them all."""
    configuration = chosen.configuration
    if not configuration.has_ssd:
        return Recommendation(at_s, configuration.dram_bytes)
    return Recommendation(
        at_s,
        configuration.dram_bytes,
        chosen.outcome.ssd_bytes,
        max(configuration.group_ttl_s),
        configuration.tier_class,
    )


def least_of(spec: TieredCacheSpec, here: Target, at_s: float) -> Recommendation:
    """What an idle cache asks of each tier: the least that was declared."""
    ssd_bytes = min(spec.ssd.capacity.min, here.ssd_bytes) if spec.ssd else 0
    return Recommendation(at_s, spec.dram.capacity.min, ssd_bytes, (here.ttl_s or 0.0) if ssd_bytes else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that the policy knows.

    Attributes:
        now_s: seconds since the epoch.
        spec: what the user wants.
        here: what was decided last, from the status; before the first decision `initial_target`.
        ssd_class: the class of the SSD that is there, None without one.
        plan: None where there was nothing to plan for.
        unplannable: why no load could be planned for; None where there is no such reason.
        idle: every node answered, and no request came within a whole window.
        inferred: the trace behind the plan is of the inferred grade.
        recommended: of earlier plans, oldest first; this plan's need not be among them.
        observing_since_s: since when the loop sees this cache.
        decisions: the status' own, newest first.
        silent: a sentence for every node that did not answer.
        metrics: of the engines; None where none are declared.
        noise: how far simulated figures are from measured ones; None where nothing was compared yet.
        speeds: how fast tiers load and engines compute, as the model has it.
        contradiction: why the last moves are to be taken back; None otherwise.
        cost_per_hour: what a target costs with an SSD class.
        approved: in mode Advise, whether someone approved the plan.
    """

    now_s: float
    spec: TieredCacheSpec
    here: Target
    ssd_class: str | None = None
    plan: Plan | None = None
    unplannable: str | None = None
    idle: bool = False
    inferred: bool = False
    recommended: Sequence[Recommendation] = ()
    observing_since_s: float = 0.0
    decisions: Sequence[DecisionStatus] = ()
    silent: Sequence[str] = ()
    metrics: EngineMetrics | None = None
    noise: PredictionError | None = None
    speeds: Speeds | None = None
    contradiction: Contradiction | None = None
    cost_per_hour: Callable[[Target, str | None], float] | None = None
    approved: bool = False


@dataclass(frozen=True, slots=True)
class Dial:
    """One thing that a decision may move, in bytes or in seconds.

    Attributes:
        here: where it is.
        to: where it is to go.
        min: the least that was declared.
        max: the most that was declared.
        step: it moves by multiples of this, or onto its goal or bound.
        reason: why it does not go all the way, or not at all.
        guard: why its goal is not the plan's; empty where it is.
        forced: what the guard says brooks no delay: later rules leave it alone.
    """

    name: DialName
    here: int
    to: int
    min: int
    max: int
    step: int
    reason: str = ""
    guard: str = ""
    forced: bool = False

    def toward(self, amount: int, reason: str) -> Self:
        """Go there instead, and why."""
        return self if amount == self.to else replace(self, to=amount, reason=reason)

    def stay(self, reason: str) -> Self:
        """Do not move, and why."""
        return self if self.to == self.here else replace(self, to=self.here, reason=reason)

    @property
    def rises(self) -> bool:
        """Whether it is to go up."""
        return self.to > self.here

    @property
    def falls(self) -> bool:
        """Whether it is to go down."""
        return self.to < self.here

    def text(self, amount: int) -> str:
        """An amount as people write it."""
        if self.name == "ttl":
            return format_duration(float(amount))
        exact = amount % (1 << 20) == 0
        return format_quantity(amount) if exact else f"{amount / (1 << 20):.1f}Mi"


Dials = tuple[Dial, ...]
Rule = Callable[[Dials, Situation], Dials]
"""Looks at where the dials are to go, and holds some of them back."""


def dials_toward(to: Target, situation: Situation) -> Dials:
    """Each dial from where it is to where a target has it.

    The TTL is a dial only while there is an SSD before and after: without one it means nothing.
    """
    spec, here = situation.spec, situation.here
    dram, ssd = spec.dram.capacity, spec.ssd
    dials = [Dial("dram", here.dram_bytes, to.dram_bytes, dram.min, dram.max, dram.step)]
    if ssd is not None:
        size = ssd.capacity
        dials.append(Dial("ssd", here.ssd_bytes, to.ssd_bytes, size.min, size.max, size.step))
        if here.ssd_bytes and to.ssd_bytes:
            least, most = round(ssd.ttl.min), round(ssd.ttl.max)
            now_s, then_s = (most if ttl_s is None else round(ttl_s) for ttl_s in (here.ttl_s, to.ttl_s))
            dials.append(Dial("ttl", now_s, then_s, least, most, TTL_STEP_S))
    return tuple(dials)
