"""What the whole cache shall hold, within which bounds, and how everybody else writes it. Pure."""

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from kvtide_cachenode.contract.messages import IdleTimeouts
from kvtide_operator.api.point import Point
from kvtide_operator.api.status import Sizes
from kvtide_operator.api.tieredcache import TieredCacheSpec

Amount = TypeVar("Amount", int, float)


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


def clamped(amount: Amount, least: Amount, most: Amount) -> Amount:
    """The amount, or the bound that it is beyond."""
    return min(max(amount, least), most)


def initial_target(spec: TieredCacheSpec) -> Target:
    """What a cache has before anything was decided."""
    ssd = spec.ssd
    if ssd is None or ssd.capacity.initial == 0:
        return Target(spec.dram.capacity.initial)
    return Target(spec.dram.capacity.initial, ssd.capacity.initial, ssd.ttl.max)


def within(target: Target, spec: TieredCacheSpec) -> Target:
    """A target within the bounds of the spec."""
    dram, ssd = spec.dram.capacity, spec.ssd
    dram_bytes = clamped(target.dram_bytes, dram.min, dram.max)
    if ssd is None:
        return Target(dram_bytes)
    ssd_bytes = clamped(target.ssd_bytes, ssd.capacity.min, ssd.capacity.max)
    ttl_s = None if target.ttl_s is None else clamped(target.ttl_s, ssd.ttl.min, ssd.ttl.max)
    return Target(dram_bytes, ssd_bytes, ttl_s, target.groups if ssd_bytes else None)


def target_at(point: Point) -> Target:
    """What the cache shall hold to be at a point; of several TTLs the longest bounds them all."""
    ttl_s = max(point.groups) if point.groups else point.ttl
    return Target(point.dram, point.ssd or 0, ttl_s)


def target_with(sizes: Sizes) -> Target:
    """What decisions write, as a target."""
    return Target(sizes.dram, sizes.ssd or 0, sizes.ttl)


def sizes_of(target: Target, ssd_class: str | None) -> Sizes:
    """A target as decisions write it."""
    if not target.ssd_bytes:
        return Sizes(dram=target.dram_bytes)
    return Sizes(dram=target.dram_bytes, ssd=target.ssd_bytes, ssd_class=ssd_class, ttl=target.ttl_s)


def idle_timeouts(target: Target) -> IdleTimeouts:
    """How long a target has its nodes keep what is on SSD."""
    if target.groups is None:
        return IdleTimeouts(other=target.ttl_s)
    most_s = math.inf if target.ttl_s is None else target.ttl_s
    by_root = {root: min(ttl_s, most_s) for root, ttl_s in target.groups.by_root}
    return IdleTimeouts(by_root, min(target.groups.other_s, most_s))


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
