"""What a plan is made for: when that has moved, the search runs again."""

from dataclasses import replace
from math import sqrt
from typing import Any

from kvtide_operator.api.engine import MeasuredProfile
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.decide.steps import Target
from kvtide_operator.plan.proposal import Demand
from kvtide_operator.simulate.engine.pace import Pace, pace_of
from kvtide_operator.world.metrics import EngineMetrics, known


def moved(before: Demand, now: Demand, threshold: float) -> bool:
    """Whether the demand has changed by more than ``threshold``: hits at some size, or blocks asked for.

    The number of requests varies by chance: three standard deviations of a Poisson count are no change.
    """
    if before.curve.distance(now.curve) > threshold:
        return True
    rate_before, rate_now = before.blocks / before.span_s, now.blocks / now.span_s
    chance = 3 / sqrt(min(before.requests, now.requests))
    return abs(rate_now - rate_before) > max(threshold, chance) * max(rate_before, rate_now)


def ttl_s_of(target: Target, longest_s: float) -> float | tuple[float, ...]:
    """The TTL of a target as the planner takes it: one, or each subtree's and then that of the rest."""
    bound_s = longest_s if target.ttl_s is None else target.ttl_s
    if target.groups is None:
        return bound_s
    each_s = (*(ttl_s for _, ttl_s in target.groups.by_root), target.groups.other_s)
    return tuple(min(ttl_s, bound_s) for ttl_s in each_s)


def roots_of(target: Target) -> tuple[int, ...]:
    """Ids of the blocks that name the subtrees of a target's TTLs."""
    return tuple(int(root, 16) for root, _ in target.groups.by_root) if target.groups else ()


def pace_for(manifest: Manifest, metrics: EngineMetrics | None) -> Pace | str | None:
    """The engines' pace, or why it is not known; None where the manifest does not ask for it."""
    if not isinstance(manifest.cache.spec.engine.profile, MeasuredProfile):
        return None
    return pace_of(metrics)


def declared_of(manifest: Manifest) -> tuple[Any, ...]:
    """What a plan depends on: not the status, which every plan changes."""
    return manifest.cache.spec, {name: known.spec for name, known in manifest.classes.items()}


def with_instances(manifest: Manifest, metrics: EngineMetrics | None) -> Manifest:
    """The manifest with as many engines as report, where it does not say how many."""
    observed = known(metrics.instances) if metrics else None
    engine = manifest.cache.spec.engine
    if observed is None or observed < 1 or engine.instances is not None:
        return manifest
    engine = engine.model_copy(update={"instances": round(observed)})
    spec = manifest.cache.spec.model_copy(update={"engine": engine})
    cache = manifest.cache.model_copy(update={"spec": spec})
    return replace(manifest, cache=cache)
