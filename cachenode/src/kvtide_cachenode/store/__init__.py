"""What the node holds: arena, index, tiers."""

from kvtide_cachenode.store.index import Entry
from kvtide_cachenode.store.store import CapacityError, Counters, Reservation, Store

__all__ = ["CapacityError", "Counters", "Entry", "Reservation", "Store"]
