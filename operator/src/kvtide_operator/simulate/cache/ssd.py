"""What an SSD holds under idle time-outs: expiry = last demotion + TTL of the block's group.

A block that is read back becomes the most recently used of DRAM, and its copy stays until it expires; the
block's next demotion stamps a copy that is still there anew and writes nothing. Under the byte cap the copy
with the oldest stamp goes first.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_cachenode.placement import NEEDED_WORTH, SsdWrites
from kvtide_operator.simulate.cache.lru import NEWER, Links, append, empty_lists, present, unlink
from kvtide_operator.simulate.requests import Rows

HELD, PEAK, WRITTEN, REFRESHED, DROPPED, REFUSED, DISPLACED, EXPIRED = range(8)
"""Places in `Ssd.tally`: copies held now and most held at once; demotions that were written, that found their
copy still there, that the write queue had no room for, that write admission or a TTL of 0 refused; copies
displaced under the cap, and expired."""


class Ssd(NamedTuple):
    """The copies on SSD.

    Attributes:
        links: int32[blocks + groups, 2], a list per group in order of stamp.
        stamp_s: float64[blocks], the last demotion.
        group: int8[blocks].
        ttl_s: float64[groups].
        tally: int64[8], see `HELD`.
        needed_worth: the bits a demotion must have to be written.
        cap_blocks: copies that fit, at least one.
        room_blocks: blocks that DRAM holds while there are no copies.
        index_blocks: room in DRAM that the index takes for a copy, in blocks.
    """

    links: Links
    stamp_s: NDArray[np.float64]
    group: NDArray[np.int8]
    ttl_s: NDArray[np.float64]
    tally: NDArray[np.int64]
    needed_worth: int
    cap_blocks: int
    room_blocks: int
    index_blocks: float


def empty_ssd(
    group: NDArray[np.int8],
    ttl_s: tuple[float, ...],
    writes: SsdWrites,
    cap_blocks: int,
    room_blocks: int = 0,
    index_blocks: float = 0.0,
) -> Ssd:
    """An SSD with nothing on it."""
    return Ssd(
        links=empty_lists(len(group), len(ttl_s)),
        stamp_s=np.zeros(len(group)),
        group=group,
        ttl_s=np.array(ttl_s, dtype=np.float64),
        tally=np.zeros(8, dtype=np.int64),
        needed_worth=NEEDED_WORTH[writes],
        cap_blocks=max(cap_blocks, 1),
        room_blocks=room_blocks,
        index_blocks=index_blocks,
    )


@njit(cache=True, inline="always")
def holds(ssd: Ssd, block: int, now_s: float) -> bool:
    """Whether a copy of ``block`` is there and has not expired."""
    return present(ssd.links, block) and ssd.stamp_s[block] + ssd.ttl_s[ssd.group[block]] >= now_s


@njit(cache=True, forceinline=True)
def _expire(ssd: Ssd, now_s: float) -> None:
    """Forget the copies whose time is up."""
    links, stamp_s = ssd.links, ssd.stamp_s
    for group in range(len(ssd.ttl_s)):
        head = len(stamp_s) + group
        oldest = links[head, NEWER]
        while oldest != head and stamp_s[oldest] + ssd.ttl_s[group] < now_s:
            unlink(links, oldest)
            ssd.tally[HELD] -= 1
            ssd.tally[EXPIRED] += 1
            oldest = links[head, NEWER]


@njit(cache=True, forceinline=True)
def demote(ssd: Ssd, demoted: Rows, now_s: float, room_blocks: int) -> int:
    """Take in what DRAM lets go of; at most ``room_blocks`` copies fit the write queue, the rest is dropped.

    Returns:
        How many copies have to be written.
    """
    links, stamp_s, group, ttl_s, tally = ssd.links, ssd.stamp_s, ssd.group, ssd.ttl_s, ssd.tally
    written = 0
    _expire(ssd, now_s)
    for at in range(len(demoted)):
        block = demoted[at].block
        if present(links, block):
            tally[REFRESHED] += 1
            unlink(links, block)
        elif ttl_s[group[block]] <= 0.0 or demoted[at].worth & ssd.needed_worth != ssd.needed_worth:
            tally[REFUSED] += 1
            continue
        elif written >= room_blocks:
            tally[DROPPED] += 1
            continue
        else:
            written += 1
            tally[HELD] += 1
            if tally[HELD] > ssd.cap_blocks:
                unlink(links, _oldest(ssd))
                tally[HELD] -= 1
                tally[DISPLACED] += 1
        stamp_s[block] = now_s
        append(links, len(stamp_s) + group[block], block)
        tally[PEAK] = max(tally[PEAK], tally[HELD])
    tally[WRITTEN] += written
    return written


@njit(cache=True, forceinline=True)
def _oldest(ssd: Ssd) -> int:
    """The copy with the oldest stamp of all groups."""
    blocks, best = len(ssd.stamp_s), -1
    for group in range(len(ssd.ttl_s)):
        oldest = ssd.links[blocks + group, NEWER]
        if oldest < blocks and (best < 0 or ssd.stamp_s[oldest] < ssd.stamp_s[best]):
            best = oldest
    return best
