"""What the planner is asked and what it answers; light enough for a process that does not plan itself."""

from dataclasses import dataclass

from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.selector import Constraints, Prefer
from kvtide_operator.plan.space import SearchSpace
from kvtide_operator.simulate.cache.hit_curve import HitCurve


@dataclass(frozen=True, slots=True)
class Demand:
    """What was asked of a cache within the window, and the hit ratio it could have at any size.

    Attributes:
        requests: within the window.
        blocks: that they asked for.
        span_s: from the window's beginning to now.
        inferred: the nodes guessed the requests from foreign clients' commands.
        curve: thinned.
        seen_prefix_hit_ratio: what engines reported, or None where no engine reports.
    """

    requests: int
    blocks: int
    span_s: float
    inferred: bool
    curve: HitCurve
    seen_prefix_hit_ratio: float | None


@dataclass(frozen=True, slots=True)
class Heard:
    """What nodes told of a window.

    Attributes:
        demand: None where nothing was asked, or nothing is known.
        complete: all that the nodes told was understood, so that no demand is none and not an unknown one.
        notes: sentences on what could not be read, kept or believed.
        unreadable: those of them on the history, whose storage may be away.
    """

    demand: Demand | None
    complete: bool = True
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a cache could be, where it should be, and where it is, all on the same window.

    Attributes:
        frontier: non-dominated points, cheapest first.
        chosen: the point to move to.
        feasible: whether it keeps every constraint.
        current: the configuration the cache has now.
        gain: by how much the chosen point is better than the current one in what the objective prefers, as
            a share; 1 where the current one breaks a constraint that the chosen one keeps.
        evaluations: configurations simulated.
        why: one sentence.
        missed: which constraints the chosen point breaks, and by how much; empty where it keeps all.
        missed_now: the same of the current one.
        roots: ids, in the trace, of the blocks that name the subtrees with a TTL of their own at the chosen
            point; the last of its TTLs is for all other blocks. Empty where it has one TTL.
    """

    frontier: tuple[Candidate, ...]
    chosen: Candidate
    feasible: bool
    current: Candidate
    gain: float
    evaluations: int
    why: str
    roots: tuple[int, ...] = ()
    missed: str = ""
    missed_now: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the user wants of the cache: bounds, constraints, objective.

    Attributes:
        groups: prefix subtrees with a TTL of their own, at most; 1 for one TTL.
        root_depth: of the blocks that name them, in blocks.
    """

    space: SearchSpace
    constraints: Constraints
    prefer: Prefer
    groups: int = 1
    root_depth: int = 0
