"""Lists in order of use, threaded through an array: block numbers are the nodes, nothing is allocated.

``links`` is int32[blocks + lists, 2]. Row ``b`` holds the next newer and the next older block of ``b``,
`ABSENT` for a block in no list. The rows after the blocks are the lists' heads; a head's neighbours are
the oldest and the newest block of its list, or the head itself where the list is empty.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

ABSENT = -1
NEWER, OLDER = 0, 1

Links = NDArray[np.int32]


def empty_lists(blocks: int, lists: int = 1) -> Links:
    """``lists`` empty lists over ``blocks`` blocks; list ``i`` has its head in row ``blocks + i``."""
    links = np.full((blocks + lists, 2), ABSENT, dtype=np.int32)
    links[blocks:] = np.arange(blocks, blocks + lists, dtype=np.int32)[:, None]
    return links


@njit(cache=True, inline="always")
def present(links: Links, block: int) -> bool:
    """Whether ``block`` is in a list."""
    return links[block, NEWER] != ABSENT


@njit(cache=True)
def unlink(links: Links, block: int) -> None:
    """Take ``block`` out of the list it is in."""
    newer = links[block, NEWER]
    older = links[block, OLDER]
    links[newer, OLDER] = older
    links[older, NEWER] = newer
    links[block, NEWER] = ABSENT


@njit(cache=True)
def append(links: Links, head: int, block: int) -> None:
    """Put ``block``, which is in no list, at the newest end of the list with this head."""
    newest = links[head, OLDER]
    links[block, OLDER] = newest
    links[block, NEWER] = head
    links[newest, NEWER] = block
    links[head, OLDER] = block
