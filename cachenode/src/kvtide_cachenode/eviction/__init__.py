"""Eviction policies and SSD write admission, pure: the node runs them and the simulator runs the same."""

from collections.abc import Callable
from typing import Any

from kvtide_cachenode.eviction.admission import NEEDED_WORTH, History, WriteAdmission, admits
from kvtide_cachenode.eviction.depth import depth_in_key, root_in_key, root_of
from kvtide_cachenode.eviction.gdsf import GreedyDualSizeFrequency
from kvtide_cachenode.eviction.lru import LeastRecentlyUsed
from kvtide_cachenode.eviction.policy import Policy
from kvtide_cachenode.eviction.replay import Replayed, replay

POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "lru": LeastRecentlyUsed,
    "gdsf": GreedyDualSizeFrequency,
}


def make_policy(name: str) -> Policy[Any]:
    """A fresh policy by its registered name.

    Raises:
        ValueError: the name is unknown; the sentence lists the known ones.
    """
    if name not in POLICIES:
        raise ValueError(f"eviction policy {name!r} is unknown: choose one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name]()


__all__ = [
    "NEEDED_WORTH",
    "POLICIES",
    "GreedyDualSizeFrequency",
    "History",
    "LeastRecentlyUsed",
    "Policy",
    "Replayed",
    "WriteAdmission",
    "admits",
    "depth_in_key",
    "make_policy",
    "replay",
    "root_in_key",
    "root_of",
]
