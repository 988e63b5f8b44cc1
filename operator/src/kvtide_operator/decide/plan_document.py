"""From a plan to its CachePlan: points as the API writes them, at most 64, and a name made from them."""

from collections.abc import Sequence
from hashlib import sha256

from kvtide_operator.api.base import Metadata
from kvtide_operator.api.cacheplan import MAX_POINTS, CachePlan, CachePlanSpec, CacheRef, Workload
from kvtide_operator.api.conditions import shortened
from kvtide_operator.api.moment import rounded
from kvtide_operator.api.point import Latency, Point
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.proposal import Demand, Plan

VALIDITY_S = 24 * 3600.0
"""A plan waits at least this long for approval, and at most half as long again: it ends at noon or midnight,
so that plans made twice in a row of the same workload are one."""


def cache_plan(
    namespace: str, cache: str, plan: Plan, demand: Demand, *, currency: str, now_s: float
) -> CachePlan:
    """The CachePlan of a plan; the same content has the same name.

    Args:
        namespace: of the cache.
        cache: its name.
        plan: what the planner found.
        demand: the workload it was made for.
        currency: of its costs.
        now_s: seconds since the epoch.
    """
    frontier = thinned(plan.frontier, plan.chosen, MAX_POINTS)
    spec = CachePlanSpec(
        cache_ref=CacheRef(name=cache),
        valid_until=(now_s // (VALIDITY_S / 2) + 3) * (VALIDITY_S / 2),
        workload=Workload(
            window=float(round(demand.span_s)),
            requests=demand.requests,
            blocks=demand.blocks,
            hash=curve_hash(demand),
        ),
        currency=currency,
        frontier=tuple(point_of(candidate) for candidate in frontier),
        chosen=frontier.index(plan.chosen),
        baseline=point_of(plan.current),
        gain=plan.gain,
        why=shortened(plan.why),
    )
    digest = sha256(spec.model_dump_json(by_alias=True, exclude={"approved"}).encode()).hexdigest()[:8]
    return CachePlan(metadata=Metadata(name=f"{cache}-{digest}", namespace=namespace), spec=spec)


def thinned(frontier: Sequence[Candidate], chosen: Candidate, limit: int) -> list[Candidate]:
    """At most ``limit`` points, cheapest first: the chosen one, both ends, and others evenly between them.

    The chosen point is added where it is not on the frontier, as out of reach of the constraints it may be.
    """
    points = list(frontier)
    if chosen not in points:
        points.append(chosen)
    points.sort(key=lambda candidate: candidate.outcome.cost_per_hour)
    if len(points) <= limit:
        return points
    kept = {round(place * (len(points) - 1) / (limit - 2)) for place in range(limit - 1)}
    kept.add(points.index(chosen))
    return [points[place] for place in sorted(kept)]


def point_of(candidate: Candidate) -> Point:
    """A candidate as the API writes it, with the digits that are worth reading."""
    configuration, outcome = candidate.configuration, candidate.outcome
    ttl_s = configuration.ttl_s
    return Point(
        dram=configuration.dram_bytes,
        ssd=outcome.ssd_bytes if configuration.has_ssd else None,
        class_name=configuration.tier_class if configuration.has_ssd else None,
        ttl=None if isinstance(ttl_s, tuple) or not configuration.has_ssd else ttl_s,
        groups=ttl_s if isinstance(ttl_s, tuple) else None,
        tiers_per_hour=rounded(outcome.storage_cost_per_hour),
        cost_per_hour=rounded(outcome.cost_per_hour),
        throughput=rounded(outcome.throughput_tok_s),
        ttft=Latency(
            mean=rounded(outcome.ttft_mean_s),
            p50=rounded(outcome.ttft_p50_s),
            p99=rounded(outcome.ttft_p99_s),
        )
        if outcome.stable
        else None,
        hit_ratio=rounded(outcome.prefix_hit_ratio),
        stable=outcome.stable,
    )


def curve_hash(demand: Demand) -> str:
    """A digest of the hit curve: workloads of the same digest reuse the same blocks at the same sizes."""
    curve = demand.curve
    return sha256(curve.capacity_blocks.tobytes() + curve.hit_ratio.tobytes()).hexdigest()[:16]
