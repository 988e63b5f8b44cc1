"""What happened in a tier since the start."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Events and bytes."""

    get_hits: int = 0
    get_misses: int = 0
    exists_hits: int = 0
    exists_misses: int = 0
    sets: int = 0
    deletes: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    rejected: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
