"""Eviction policies, pure: the node runs them and the simulator runs the same."""

from collections.abc import Callable
from typing import Any

from kvtide_cachenode.eviction.lru import LeastRecentlyUsed
from kvtide_cachenode.eviction.policy import Policy

POLICIES: dict[str, Callable[[], Policy[Any]]] = {"lru": LeastRecentlyUsed}


def make_policy(name: str) -> Policy[Any]:
    """A fresh policy by its registered name.

    Raises:
        ValueError: the name is unknown; the sentence lists the known ones.
    """
    if name not in POLICIES:
        raise ValueError(f"eviction policy {name!r} is unknown: choose one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name]()


__all__ = ["POLICIES", "LeastRecentlyUsed", "Policy", "make_policy"]
