"""A configuration: what the planner may choose (Kareto, section 4.1)."""

from dataclasses import dataclass

from kvtide_operator.simulate.errors import SimulationError


@dataclass(frozen=True, slots=True)
class Configuration:
    """Sizes of the tiers, retention on SSD, its class, and how many engines.

    Attributes:
        dram_bytes: capacity of the DRAM tier over all nodes; 0 for none.
        ttl_s: idle time-out of a copy on SSD, one for all blocks or one per group; 0 writes nothing.
        tier_class: name of the SSD's class, None without an SSD.
        volumes: SSD volumes over all nodes; each has its own bandwidth.
        instances: engines that share the tiers.
    """

    dram_bytes: int
    ttl_s: float | tuple[float, ...] = 0.0
    tier_class: str | None = None
    volumes: int = 1
    instances: int = 1

    def __post_init__(self) -> None:
        if self.dram_bytes < 0:
            raise SimulationError(f"DRAM of {self.dram_bytes} bytes: give 0 or more")
        for ttl_s in self.group_ttl_s:
            if not ttl_s >= 0:
                raise SimulationError(f"a TTL of {ttl_s} s: give 0 s or more")
        if self.volumes < 1 or self.instances < 1:
            raise SimulationError(
                f"{self.volumes} volumes and {self.instances} instances: give at least one of each"
            )

    @property
    def group_ttl_s(self) -> tuple[float, ...]:
        """The TTL of each group."""
        return self.ttl_s if isinstance(self.ttl_s, tuple) else (self.ttl_s,)

    @property
    def has_ssd(self) -> bool:
        """Whether anything is ever written to an SSD."""
        return self.tier_class is not None and max(self.group_ttl_s, default=0.0) > 0
