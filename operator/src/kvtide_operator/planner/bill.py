"""What a cache costs an hour: the one figure of plans, decisions, status and metric.

In a cluster it is what is paid for: the memory limits of all containers, overhead included, and the volumes
as they are sold, also of an SSD tier that is empty. Without containers it is the tiers alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Self

from kvtide_operator.api.manifest import Manifest
from kvtide_operator.api.tierclass import Medium, TierClass
from kvtide_operator.api.tieredcache import TieredCacheSpec
from kvtide_operator.decide.split import node_sizes
from kvtide_operator.decide.target import Target
from kvtide_operator.planner.prices import bandwidth_of, price_of

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Bill:
    """The prices of a manifest, and what of it is paid for.

    Attributes:
        in_containers: whether nodes run in containers.
    """

    spec: TieredCacheSpec
    classes: dict[str, TierClass]
    in_containers: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The bill of what a manifest declares."""
        return cls(manifest.cache.spec, manifest.classes, manifest.in_containers)

    @property
    def has_one_currency(self) -> bool:
        """Whether costs of its tiers can be added."""
        return len({known.spec.price.currency for known in self.classes.values()}) == 1

    def dram_per_hour(self, paid_bytes: int) -> float:
        """What so much memory costs."""
        return price_of(self.classes[self.spec.dram.classes[0]]).per_hour(paid_bytes)

    def ssd_per_hour(self, ssd_class: str, paid_bytes: int, volumes: int) -> float:
        """What so many volumes cost that have so many bytes in all, with the throughput of their size."""
        known, fastest = self.classes[ssd_class], 0.0
        if known.spec.speed is not None and volumes:
            speeds = (bandwidth_of(known.spec.speed.read), bandwidth_of(known.spec.speed.write))
            fastest = max(speed.of_volume(paid_bytes / volumes) for speed in speeds)
        return price_of(known).per_hour(paid_bytes, volumes=volumes, throughput_mb_s=fastest / MB)

    def by_medium(self, ssd_class: str | None, volumes: int) -> dict[Medium, Callable[[int], float]]:
        """What bytes that are paid for cost; those of the SSD are of so many volumes."""
        prices: dict[Medium, Callable[[int], float]] = {"DRAM": self.dram_per_hour}
        if ssd_class is not None:
            prices["SSD"] = lambda paid_bytes: self.ssd_per_hour(ssd_class, paid_bytes, volumes)
        return prices

    def per_hour(self, dram_bytes: int, ssd_bytes: int = 0, ssd_class: str | None = None) -> float:
        """What tiers of these sizes cost; not a number where no sum of the currencies is one."""
        if not self.has_one_currency:
            return nan
        if not self.in_containers:
            dram = self.dram_per_hour(dram_bytes)
            return dram + (
                price_of(self.classes[ssd_class]).per_hour(ssd_bytes) if ssd_class and ssd_bytes else 0
            )
        there = ssd_class or (self.spec.ssd.classes[0] if self.spec.ssd else None)
        volume = self.classes[there].spec.volume if there else None
        sizes = node_sizes(Target(dram_bytes, ssd_bytes), self.spec, volume)
        cost = self.dram_per_hour(sizes.replicas * sizes.memory_bytes)
        if there is None or sizes.claim_bytes is None:
            return cost
        return cost + self.ssd_per_hour(there, sizes.replicas * sizes.claim_bytes, sizes.replicas)
