"""The configurations that a search may choose from."""

from dataclasses import dataclass
from fractions import Fraction

from kvtide_operator.simulate.configuration import Configuration


class SpaceError(ValueError):
    """A search space that holds nothing; the message names the bounds and the cure."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """DRAM capacity by SSD TTL by SSD class (Kareto, section 4.1).

    Searches address it by exact fractions of its ranges, so that two of them that mean the same
    configuration name the same configuration.

    Attributes:
        dram_min_bytes: least DRAM.
        dram_max_bytes: most DRAM.
        dram_step_bytes: sizes are ``dram_min_bytes`` plus a multiple of it, or ``dram_max_bytes``.
        ttl_min_s: shortest SSD TTL; 0 writes nothing to SSD.
        ttl_max_s: longest SSD TTL.
        tier_classes: SSD classes, the categorical axis; empty where there is no SSD.
        volumes: SSD volumes of a configuration that uses SSD.
        instances: engines.
    """

    dram_min_bytes: int
    dram_max_bytes: int
    dram_step_bytes: int = 1 << 30
    ttl_min_s: float = 0.0
    ttl_max_s: float = 3600.0
    tier_classes: tuple[str, ...] = ()
    volumes: int = 1
    instances: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.dram_min_bytes <= self.dram_max_bytes:
            raise SpaceError(
                f"the least DRAM, {self.dram_min_bytes} bytes, must be at least 0 and at most the most DRAM, "
                f"{self.dram_max_bytes} bytes; swap or widen the bounds"
            )
        if not 0 <= self.ttl_min_s <= self.ttl_max_s < float("inf"):
            raise SpaceError(
                f"the shortest TTL, {self.ttl_min_s:g} s, must be at least 0 and at most the longest, "
                f"{self.ttl_max_s:g} s, which must be finite; swap or widen the bounds"
            )
        if self.dram_step_bytes <= 0 or self.volumes <= 0 or self.instances <= 0:
            raise SpaceError("the DRAM step, the volumes and the instances must each be above 0")

    @property
    def media(self) -> tuple[str | None, ...]:
        """The values of the categorical axis: the SSD classes, or None alone where there is none."""
        return self.tier_classes or (None,)

    def configuration(self, dram: Fraction, ttl: Fraction, tier_class: str | None) -> Configuration:
        """The configuration at the fractions ``dram`` and ``ttl``, each in [0, 1], of the ranges.

        DRAM is rounded to its step and TTL to whole seconds. A TTL of 0 writes nothing, whatever the class:
        these configurations are one, without SSD.
        """
        size = self.dram_min_bytes + _rounded(
            dram * (self.dram_max_bytes - self.dram_min_bytes), self.dram_step_bytes
        )
        size = self.dram_max_bytes if dram == 1 else min(size, self.dram_max_bytes)
        lifetime_s = self.ttl_min_s + float(ttl) * (self.ttl_max_s - self.ttl_min_s)
        if 0 < ttl < 1:
            lifetime_s = float(round(lifetime_s))
        return self.canonical(size, lifetime_s, tier_class)

    def canonical(self, dram_bytes: int, ttl_s: float, tier_class: str | None) -> Configuration:
        """The one configuration that stands for all that behave like this."""
        if tier_class is None or ttl_s == 0:
            return Configuration(dram_bytes, 0.0, None, instances=self.instances)
        return Configuration(dram_bytes, ttl_s, tier_class, volumes=self.volumes, instances=self.instances)


def _rounded(amount: Fraction, step: int) -> int:
    return round(amount / step) * step
