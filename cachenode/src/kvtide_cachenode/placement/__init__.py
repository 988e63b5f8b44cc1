"""Who leaves a tier, and which of those the SSD gets, pure; `replay` plays a trace against any policy."""

from collections.abc import Callable
from typing import Any

from kvtide_cachenode.placement.depth import depth_in_key, root_in_key, root_of
from kvtide_cachenode.placement.lru import LeastRecentlyUsed
from kvtide_cachenode.placement.policy import Policy
from kvtide_cachenode.placement.replay import Replayed, replay
from kvtide_cachenode.placement.ssd_writes import NEEDED_WORTH, History, SsdWrites, is_written

POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "lru": LeastRecentlyUsed,
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
    "History",
    "LeastRecentlyUsed",
    "Policy",
    "Replayed",
    "SsdWrites",
    "depth_in_key",
    "is_written",
    "make_policy",
    "replay",
    "root_in_key",
    "root_of",
]
