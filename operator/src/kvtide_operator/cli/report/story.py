"""The story of a run: one sample a round, and the sums a reader wants at the end."""

from dataclasses import dataclass, field

from kvtide_operator.loop import Round
from kvtide_operator.simulate.cache.hit_curve import HitCurve


@dataclass(frozen=True, slots=True)
class Sample:
    """One round, as plots and the live view want it.

    Attributes:
        at_s: seconds of the cache's clock since the run began.
        seen_hit_ratio: what engines saw since the sample before; None without requests.
        planned_hit_ratio: what the curve says of the present capacity; None before there is a plan.
        cost_per_hour: storage price of the present capacity.
    """

    at_s: float
    capacity_bytes: int
    used_bytes: int
    resident_bytes: int
    chosen_bytes: int | None
    seen_hit_ratio: float | None
    planned_hit_ratio: float | None
    cost_per_hour: float


@dataclass
class Story:
    """All samples of a run against a fixed size.

    Attributes:
        fixed_bytes: the size a cautious person would have set for the peak.
        fixed_cost_per_hour: its price.
    """

    fixed_bytes: int
    fixed_cost_per_hour: float
    samples: list[Sample] = field(default_factory=list)
    moves: list[tuple[float, Round]] = field(default_factory=list)
    curve: HitCurve | None = None
    bytes_per_entry: float = 0.0

    def add(self, done: Round, at_s: float, seen_hit_ratio: float | None) -> None:
        """Take in one round."""
        plan, world = done.plan, done.world
        self.samples.append(
            Sample(
                at_s=at_s,
                capacity_bytes=world.capacity_bytes,
                used_bytes=world.used_bytes,
                resident_bytes=sum(node.resident_bytes for node in world.nodes),
                chosen_bytes=plan.chosen.configuration.dram_bytes if plan else None,
                seen_hit_ratio=seen_hit_ratio,
                planned_hit_ratio=plan.current.outcome.prefix_hit_ratio if plan else None,
                cost_per_hour=done.storage_cost_per_hour,
            )
        )
        if done.decision.action != "Hold":
            self.moves.append((at_s, done))
        if done.demand is not None and world.entries:
            self.curve = done.demand.curve
            self.bytes_per_entry = world.used_bytes / world.entries

    @property
    def hours(self) -> float:
        """How long the run took on the cache's clock."""
        return self.samples[-1].at_s / 3600 if self.samples else 0.0

    @property
    def cost(self) -> float:
        """What the storage cost over the run: every sample's price until the next."""
        pairs = zip(self.samples, self.samples[1:], strict=False)
        return sum(a.cost_per_hour * (b.at_s - a.at_s) / 3600 for a, b in pairs)

    @property
    def fixed_cost(self) -> float:
        """What the fixed size would have cost over the run."""
        return self.fixed_cost_per_hour * self.hours

    @property
    def saved(self) -> float | None:
        """The share of the fixed size's cost that was not spent; None before anything was."""
        return 1 - self.cost / self.fixed_cost if self.fixed_cost else None
