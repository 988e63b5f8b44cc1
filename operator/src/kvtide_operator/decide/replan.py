"""When to plan again: what a plan was made for has moved, or the plan is old. Pure."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from kvtide_operator.plan.proposal import Demand
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.simulate.engine.pace import Pace

PLAN_EVERY_S = 3600.0
"""A plan is made anew at least this often, also when nothing seems to have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a plan is made for.

    Attributes:
        declared: what the manifest says, as far as a plan depends on it.
        here: where the cache is.
        roots: the subtrees that have a TTL of their own there.
        demand: what is asked of it.
        pace: of the engines; None where it is not known.
        at_s: when, seconds since the epoch.
    """

    declared: tuple[Any, ...]
    here: Configuration
    roots: tuple[int, ...]
    demand: Demand
    pace: Pace | None
    at_s: float


def is_outdated(basis: Basis, now: Basis, threshold: float) -> bool:
    """Whether a plan made for ``basis`` is to be made again; ``threshold`` is of the demand, see `moved`."""
    if now.at_s - basis.at_s >= PLAN_EVERY_S:
        return True
    if (basis.declared, basis.here, basis.roots) != (now.declared, now.here, now.roots):
        return True
    if now.pace is not None and (basis.pace is None or basis.pace.differs(now.pace)):
        return True
    return moved(basis.demand, now.demand, threshold)


def moved(before: Demand, now: Demand, threshold: float) -> bool:
    """Whether the demand has changed by more than ``threshold``: hits at some size, or blocks asked for.

    The number of requests varies by chance: three standard deviations of a Poisson count are no change.
    """
    if before.curve.distance(now.curve) > threshold:
        return True
    rate_before, rate_now = before.blocks / before.span_s, now.blocks / now.span_s
    chance = 3 / sqrt(min(before.requests, now.requests))
    return abs(rate_now - rate_before) > max(threshold, chance) * max(rate_before, rate_now)
