"""A target for the whole cache → equal nodes, and what each needs of Kubernetes. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from kvtide_cachenode.contract.sizing import MI, PAGE_BYTES, capacity_for, limit_for
from kvtide_operator.api.quantity import format_quantity
from kvtide_operator.api.tierclass import Volume
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.steps import NodeSizes
from kvtide_operator.decide.target import Target

FILE_SYSTEM_PERCENT: Final = 5
"""Of a volume, for the file system: inodes and reserves take up to 1.6 % (ext4), the rest is a margin."""
FILE_SYSTEM_BYTES: Final = 128 * MI
"""And its journal, measured with XFS: 64 MiB of a volume of 300 MiB or 500 MiB."""
WORTH_A_NODE: Final = 0.05
"""Of the target: what some nodes lack and the others cannot hold is worth another node only above this."""
SOME_VOLUME: Final = Volume(step=MI)
"""Where no class says in which sizes volumes are sold."""


def node_sizes(target: Target, spec: TieredCacheSpec, volume: Volume | None = None) -> NodeSizes:
    """The target split over as few nodes as ``nodes.maxMemory`` and ``nodes.replicas`` allow.

    Sizes are rounded up to whole pages, so the nodes hold together at least the target; but where even
    ``replicas.max`` nodes of ``maxMemory`` are too few, and where ``volume.max`` is less than a node's share.

    Args:
        volume: in which sizes the SSD's class is sold.
    """
    replicas, largest = spec.nodes.replicas, _largest_dram_bytes(spec)
    count = replicas.min
    if largest is not None:
        count = min(max(-(-target.dram_bytes // largest), replicas.min), replicas.max)
    dram_bytes = _pages(target.dram_bytes, count)
    if largest is not None:
        dram_bytes = min(dram_bytes, largest)
    sizes = NodeSizes(count, dram_bytes, limit_for(dram_bytes), 0, None)
    if spec.ssd is None:
        return sizes
    sold = volume or SOME_VOLUME
    ssd_bytes = _pages(target.ssd_bytes, count)
    if sold.max is not None:
        ssd_bytes = min(ssd_bytes, ssd_for(sold.max))
    return replace(sizes, ssd_bytes=ssd_bytes, claim_bytes=claim_for(ssd_bytes, sold))


def with_held(sizes: NodeSizes, target: Target, spec: TieredCacheSpec, held: Mapping[int, int]) -> NodeSizes:
    """The sizes of the other nodes where some, by ordinal, keep ``held`` bytes of DRAM, not their share.

    What those lack the others hold, up to ``maxMemory``; if that is not enough, more nodes do, up to
    ``replicas.max``. Without ``maxMemory`` the bound is the equal share; with ``replicas.max`` nodes, none.
    What a node has too much changes nothing for the others.
    """
    share, most, largest = sizes.dram_bytes, spec.nodes.replicas.max, _largest_dram_bytes(spec)
    for count in range(sizes.replicas, most + 1):
        kept = [min(size, share) for ordinal, size in held.items() if ordinal < count]
        lacking = max(target.dram_bytes - sum(kept), 0)
        free = count - len(kept)
        needed = _pages(lacking, free) if free else share
        if count == sizes.replicas:
            needed = max(needed, share)
        bound = largest if largest is not None or count == most else share
        fits = free > 0 and (bound is None or needed <= bound)
        missing = target.dram_bytes - sum(kept) - free * min(needed, bound or needed)
        if fits or missing <= WORTH_A_NODE * target.dram_bytes:
            break
    dram_bytes = needed if bound is None else min(needed, bound)
    return replace(sizes, replicas=count, dram_bytes=dram_bytes, memory_bytes=limit_for(dram_bytes))


def claim_for(ssd_bytes: int, volume: Volume) -> int:
    """The volume, in bytes, whose file system has room for an SSD tier: as it is sold."""
    needed = -(-ssd_bytes * (100 + FILE_SYSTEM_PERCENT) // 100) + FILE_SYSTEM_BYTES
    size = max(-(-needed // volume.step) * volume.step, volume.min)
    return size if volume.max is None else min(size, volume.max)


def ssd_for(claim_bytes: int) -> int:
    """The largest SSD tier in bytes, whole pages, of a volume: `claim_for` reversed."""
    room = claim_bytes - FILE_SYSTEM_BYTES
    return max(room * 100 // (100 + FILE_SYSTEM_PERCENT), 0) // PAGE_BYTES * PAGE_BYTES


def beyond(target: Target, spec: TieredCacheSpec, volume: Volume | None = None) -> str | None:
    """What of a target even the most and largest nodes cannot hold, and the cure; None where all fits."""
    sizes = node_sizes(target, spec, volume)
    count, most = sizes.replicas, spec.nodes.max_memory
    if count * sizes.dram_bytes < target.dram_bytes and most is not None:
        return (
            f"{count} nodes of nodes.maxMemory {format_quantity(most)} hold "
            f"{format_quantity(count * sizes.dram_bytes // MI * MI)} DRAM, wanted are "
            f"{format_quantity(target.dram_bytes)}: raise nodes.maxMemory to "
            f"{format_quantity(limit_for(-(-target.dram_bytes // count)))} or allow more nodes"
        )
    if count * sizes.ssd_bytes < target.ssd_bytes and volume is not None and volume.max is not None:
        return (
            f"{count} volumes of volume.max {format_quantity(volume.max)} hold "
            f"{format_quantity(count * sizes.ssd_bytes // MI * MI)} SSD, wanted are "
            f"{format_quantity(target.ssd_bytes)}: allow more nodes or name another class"
        )
    return None


def least_volumes(spec: TieredCacheSpec, volume: Volume) -> str | None:
    """Why more SSD is paid for than the tier may ever have, and the cure; None where it is not."""
    if spec.ssd is None:
        return None
    count, most = spec.nodes.replicas.min, spec.ssd.capacity.max
    if claim_for(_pages(most, count), volume.model_copy(update={"min": 0})) >= volume.min:
        return None
    return (
        f"the smallest volume sold is {format_quantity(volume.min)}, and {count} of them are paid for, where "
        f"tier {spec.ssd.name} has at most {format_quantity(most)}; raise its capacity.max, name another "
        "class or remove the tier"
    )


def _largest_dram_bytes(spec: TieredCacheSpec) -> int | None:
    limit = spec.nodes.max_memory
    return None if limit is None else max(capacity_for(limit), MI)


def _pages(total_bytes: int, count: int) -> int:
    """An equal part of ``total_bytes``, rounded up to whole pages."""
    return -(-total_bytes // (count * PAGE_BYTES)) * PAGE_BYTES
