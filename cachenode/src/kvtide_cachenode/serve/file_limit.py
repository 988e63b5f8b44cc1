"""File descriptors: as many as the system lets this process have, and how many of them are for clients."""

import resource
from typing import Final

from kvtide_cachenode.store import Store
from kvtide_cachenode.store.ssd.space import SEGMENT_BYTES_MAX, SEGMENTS_PER_CAP

# For the admin port, connections to and from peers, logs and libraries.
RESERVED_FILES: Final = 512
FEWEST_CONNECTIONS: Final = 16


def raise_file_limit() -> None:
    """Have as many descriptors as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(files: int, store: Store) -> int:
    """How many clients leave enough of so many descriptors for everything else."""
    segments = sum(2 * SEGMENTS_PER_CAP + log.cap_bytes // SEGMENT_BYTES_MAX for log in store.lower.values())
    return max(files - RESERVED_FILES - segments, FEWEST_CONNECTIONS)


def file_limit() -> int:
    """Descriptors that this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft
