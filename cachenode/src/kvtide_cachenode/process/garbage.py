"""Python's search for reference cycles, kept away from the entries: for a million it takes half a second.

Nothing waits for it: what the node's own code lets go of is in no cycle. Young objects are searched as ever;
all of them now and then, while there are few entries, for what libraries leave behind.
"""

import gc
from typing import Final

SEARCH_S: Final = 60.0
# With so many entries a search of everything takes some milliseconds.
FEW_ENTRIES: Final = 20_000
NEVER: Final = 1 << 30


def search_young_only() -> None:
    """From now on the old are searched by `search_all` alone; what is there now is not searched any more."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)


def search_all(entries: int) -> None:
    """Search everything, unless there are many entries."""
    if entries <= FEW_ENTRIES:
        gc.collect()
