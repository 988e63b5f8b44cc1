"""A tier under a policy, simulated: the twin that every policy of the node has."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kvtide_cachenode.placement.policy import Policy
from kvtide_cachenode.placement.ssd_writes import REUSED, TOUCHED_TWICE, SsdWrites, is_written

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Replayed:
    """What a tier would have done, in blocks; one counts as hit only if all before it in its request do."""

    requested: int = 0
    hit: int = 0
    evicted: int = 0
    written: int = 0

    @property
    def prefix_hit_ratio(self) -> float:
        """Blocks hit / blocks requested."""
        return self.hit / self.requested if self.requested else 0.0


def replay(
    policy: Policy[Key],
    requests: Iterable[Sequence[Key]],
    block_bytes: int,
    capacity_bytes: int,
    writes: SsdWrites = "always",
) -> Replayed:
    """Play requests, each its blocks from the root on, against one tier under a fresh policy.

    Every block of a request ends up in the tier, hit or computed. ``admitted`` counts the evictions that
    ``writes`` would have written to a tier below.
    """
    said = Replayed()
    worth: dict[Key, int] = {}
    held: set[Key] = set()
    room = capacity_bytes // block_bytes
    for request in requests:
        said.requested += len(request)
        hits = 0
        while hits < len(request) and request[hits] in held:
            hits += 1
        said.hit += hits
        for block in request:
            known = block in held
            worth[block] = (REUSED if known else 0) | (TOUCHED_TWICE if block in worth else 0)
            if known:
                policy.touched(block)
                continue
            while held and len(held) >= room:
                victim = policy.victim()
                assert victim is not None, "the policy lost a key"
                policy.removed(victim)
                held.remove(victim)
                said.evicted += 1
                said.written += is_written(writes, worth[victim])
            if room:
                held.add(block)
                policy.inserted(block, block_bytes)
    return said
