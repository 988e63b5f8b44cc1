"""Exact LRU stack distances: in how small a cache each access would still have hit."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

NEVER = np.iinfo(np.int32).max
"""The distance of a first access: it hits in no cache."""


def stack_distances(blocks: NDArray[np.int32], unique_blocks: int) -> NDArray[np.int32]:
    """The LRU stack distance of every access.

    The distance of an access is how many different blocks were accessed since the last access of the same
    block, that block included: a cache of C blocks under LRU hits exactly the accesses of distance C or less
    (Mattson et al., IBM Systems Journal 9(2), 1970). It is the number of accesses since, less those that were
    themselves repeated since, which a Fenwick tree over time counts in O(log n) (after Bennett and Kruskal,
    IBM J. Research and Development 19(4), 1975). Only repeated accesses touch the tree.

    Args:
        blocks: int32[accesses], dense block numbers from 0.
        unique_blocks: one more than the largest of them.

    Returns:
        int32[accesses], blocks; `NEVER` for a first access.
    """
    distances: NDArray[np.int32] = _stack_distances(blocks, unique_blocks)
    return distances


@njit(cache=True)
def _stack_distances(blocks: NDArray[np.int32], unique_blocks: int) -> NDArray[np.int32]:
    accesses = len(blocks)
    distances = np.empty(accesses, dtype=np.int32)
    last = np.zeros(unique_blocks, dtype=np.int32)  # position of a block's last access, from 1; 0 if none
    superseded = np.zeros(accesses + 1, dtype=np.int32)  # Fenwick tree of ones at accesses repeated since
    repeats = 0
    for access in range(1, accesses + 1):
        block = blocks[access - 1]
        previous = last[block]
        last[block] = access
        if previous == 0:
            distances[access - 1] = NEVER
            continue
        earlier = 0
        at = previous
        while at > 0:
            earlier += superseded[at]
            at &= at - 1
        distances[access - 1] = access - previous - (repeats - earlier)
        repeats += 1
        at = previous
        while at <= accesses:
            superseded[at] += 1
            at += at & -at
    return distances
