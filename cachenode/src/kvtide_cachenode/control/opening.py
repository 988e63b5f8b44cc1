"""Making a node's store from its options and from what an earlier process left."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvtide_cachenode.control.state import StateFile
from kvtide_cachenode.placement import SsdWrites, make_policy
from kvtide_cachenode.process.background import every
from kvtide_cachenode.process.clock import steady_clock
from kvtide_cachenode.process.failures import Failures
from kvtide_cachenode.process.heap import process_heap
from kvtide_cachenode.process.memory_limit import largest_capacity_bytes, machine_bytes
from kvtide_cachenode.store import SsdLog, Store, TieredStore

UPKEEP_S: Final = 1.0
# At SIGTERM DRAM is written to the SSD for so long; Kubernetes allows 30 s by default for everything.
DEMOTE_AT_END_S: Final = 10.0

log = logging.getLogger("kvtide_node")


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes; ``ssd_path`` None: no SSD tier. ``ssd_bytes_per_day`` bounds what is written there."""

    dram_bytes: int
    eviction: str
    ssd_bytes: int = 0
    ssd_path: Path | None = None
    ssd_admission: SsdWrites = "always"
    ssd_bytes_per_day: float = float("inf")


async def open_store(options: StoreOptions, file: StateFile) -> Store:
    """The store with the sizes last applied, or those of the options, and never above what fits.

    Raises:
        SsdLogError: the SSD's directory cannot be used; the message says what to do.
    """
    state = file.state
    dram_bytes = options.dram_bytes if state.dram_bytes is None else state.dram_bytes
    largest = largest_capacity_bytes()
    if dram_bytes > largest:
        log.warning("%d bytes were applied last, and only %d fit the memory now", dram_bytes, largest)
        dram_bytes = largest
    policy = make_policy(options.eviction)
    heap = process_heap()
    if options.ssd_path is None:
        store = Store(dram_bytes, machine_bytes(), policy)
        store.watch_memory(heap)
        return store
    ssd_bytes = options.ssd_bytes if state.ssd_bytes is None else state.ssd_bytes
    ssd = await SsdLog.open(
        options.ssd_path, ssd_bytes, steady_clock(), write_bytes_per_day=options.ssd_bytes_per_day
    )
    stats = ssd.stats()
    log.info("the SSD tier has %d entries, %d bytes", stats.entries, stats.used_bytes)
    tiered = TieredStore(dram_bytes, machine_bytes(), policy, ssd, options.ssd_admission)
    tiered.watch_memory(heap)
    return tiered


async def keep_up(store: Store, failures: Failures) -> None:
    """Do the store's upkeep until cancelled."""
    await every(UPKEEP_S, "upkeep", failures, store.maintain)


async def close_store(store: Store) -> None:
    """Let what is worth it outlive the process, in due time."""
    await store.close(DEMOTE_AT_END_S)
