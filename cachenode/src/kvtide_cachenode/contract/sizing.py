"""How much memory a node needs for its DRAM tier, and the reverse. Pure: node and operator use the same.

A container's limit counts the tier, the process, and what the kernel keeps for its connections.
"""

from typing import Final

MI: Final = 1 << 20
PAGE_BYTES: Final = 4096
# Code and buffers of a process: 48 MiB at start, and 80 MiB more with 1,000 connections (measured), which few
# nodes have.
PROCESS_BYTES: Final = 64 * MI
# A client that reads more slowly than the node sends holds up to 4 MiB in the kernel (the upper bound of
# tcp_wmem; measured: 64 MiB for 16 such clients, 256 MiB for 64). Enough for 32 at the same time; more meet
# the limit, where the kernel makes socket buffers smaller before it kills anybody.
SOCKETS_BYTES: Final = 128 * MI
# What the tier's books do not see: page tables, the allocator's fragments.
SLACK_PERCENT: Final = 3
# Room of the DRAM tier for each entry on the SSD: columns, dictionary, place among the keys, and the key as
# far as SSD_KEY_BYTES; what it has beyond that is added. Measured: 250 bytes with a key of 40.
SSD_ENTRY_BYTES: Final = 384
SSD_KEY_BYTES: Final = 128
# At most this part of DRAM goes to the SSD's index.
LOG_INDEX_SHARE: Final = 1 / 4


def limit_for(capacity_bytes: int) -> int:
    """The memory limit, whole MiB in bytes, of a container whose node has a DRAM tier of that capacity."""
    needed = -(-capacity_bytes * (100 + SLACK_PERCENT) // 100) + PROCESS_BYTES + SOCKETS_BYTES
    return -(-needed // MI) * MI


def capacity_for(limit_bytes: int) -> int:
    """The largest DRAM tier in bytes, whole pages, that fits a memory limit: `limit_for` reversed."""
    room = limit_bytes - PROCESS_BYTES - SOCKETS_BYTES
    return max(room * 100 // (100 + SLACK_PERCENT), 0) // PAGE_BYTES * PAGE_BYTES
