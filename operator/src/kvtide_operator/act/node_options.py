"""What a node is told at its start because of what is declared, the same wherever it runs.

Addresses, sizes and files are for each place to say. What the planner simulates must be told here.
"""

from typing import Final

from kvtide_cachenode.placement import SsdWrites
from kvtide_operator.api.tierclass import TierClassSpec
from kvtide_operator.api.tieredcache import TieredCacheSpec

SSD_WRITES: Final[dict[str, SsdWrites]] = {
    "Always": "always",
    "SecondTouch": "secondTouch",
    "ReusedOnly": "reusedOnly",
}


def trace_options(spec: TieredCacheSpec) -> list[str]:
    """Options of every node of a cache."""
    return [f"--block-tokens={spec.model.block_tokens}"]


def ssd_options(spec: TieredCacheSpec, ssd_class: TierClassSpec | None) -> list[str]:
    """Options of a node with an SSD tier: what is written to it, and how much of that its medium stands."""
    options = []
    if spec.ssd is not None:
        options.append(f"--ssd-admission={SSD_WRITES[spec.ssd.admission]}")
    if ssd_class is not None and ssd_class.endurance is not None:
        options.append(f"--ssd-writes-per-day={ssd_class.endurance.writes_per_day}")
    return options
