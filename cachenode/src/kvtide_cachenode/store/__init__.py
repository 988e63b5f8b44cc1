"""What the node holds: the DRAM tier (arena, index), the SSD tier (`ssd`), and the movement between them."""

from kvtide_cachenode.store.counters import Counters
from kvtide_cachenode.store.index import Entry
from kvtide_cachenode.store.reservation import EVICTED_AT_ONCE, CapacityError, Reservation
from kvtide_cachenode.store.ssd import SsdLog, SsdLogError, StreamBrokenError
from kvtide_cachenode.store.store import Store
from kvtide_cachenode.store.tiered import TieredStore

__all__ = [
    "EVICTED_AT_ONCE",
    "CapacityError",
    "Counters",
    "Entry",
    "Reservation",
    "SsdLog",
    "SsdLogError",
    "Store",
    "StreamBrokenError",
    "TieredStore",
]
