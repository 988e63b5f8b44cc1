"""The tiers as they are, and how large they may be."""

import os

from kvtide_cachenode.contract.messages import TierStatus
from kvtide_cachenode.process.memory_limit import largest_capacity_bytes
from kvtide_cachenode.store import SsdLog, Store


def largest_dram_bytes(store: Store) -> int:
    """The arena is mapped for the machine's memory; a container's limit may be less and may change."""
    return min(store.max_bytes, largest_capacity_bytes())


def largest_ssd_bytes(log: SsdLog) -> int:
    """What the log holds and what the file system has left for it: nothing where it cannot be asked."""
    used_bytes = log.stats().used_bytes
    try:
        space = os.statvfs(log.path)
    except OSError:
        return used_bytes
    return used_bytes + space.f_bavail * space.f_frsize


def tier_status(store: Store) -> dict[str, TierStatus]:
    """Each tier of a node by its name."""
    tiers = {
        "dram": TierStatus(
            store.capacity_bytes,
            store.used_bytes,
            store.resident_bytes(),
            store.wasted_bytes,
            len(store),
            largest_dram_bytes(store),
        )
    }
    for name, log in store.lower.items():
        stats = log.stats()
        tiers[name] = TierStatus(
            stats.cap_bytes,
            stats.used_bytes,
            stats.used_bytes,
            stats.used_bytes - stats.live_bytes,
            stats.entries,
            largest_ssd_bytes(log),
        )
    return tiers
