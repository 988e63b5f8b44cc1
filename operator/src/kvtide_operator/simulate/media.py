"""How fast a storage medium is, as a function of what is provisioned (Kareto, section 3.1: X7)."""

from dataclasses import dataclass
from math import inf

from .prices import GIB


class MediumError(ValueError):
    """A medium whose speed makes no sense; the message names the field and the cure."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second of one volume of C GiB: base + per_gib x C, kept between floor and ceiling.

    Alibaba Cloud's ESSD PL1, for example: max(min(120 + 0.5 x C, 350), 125) MB/s.
    """

    base: float
    per_gib: float = 0.0
    floor: float = 0.0
    ceiling: float = inf

    def __post_init__(self) -> None:
        for field in ("base", "per_gib", "floor", "ceiling"):
            if not getattr(self, field) >= 0:
                raise MediumError(f"speed.{field} is {getattr(self, field)}; it must be zero or above")
        if self.floor > self.ceiling:
            raise MediumError(
                f"speed.floor {self.floor:g} is above speed.ceiling {self.ceiling:g}; swap them"
            )
        if max(self.base, self.per_gib, self.floor) == 0 or self.ceiling == 0:
            raise MediumError("speed is zero for every size; give a base, a perGiB or a floor")

    def of_volume(self, capacity_bytes: float) -> float:
        """Bytes a second of a volume of ``capacity_bytes``; 0 for no volume."""
        if capacity_bytes <= 0:
            return 0.0
        return min(max(self.base + self.per_gib * capacity_bytes / GIB, self.floor), self.ceiling)

    def capacity_for(self, bytes_per_s: float) -> float | None:
        """Smallest capacity in bytes of a volume that reaches ``bytes_per_s``; None beyond its ceiling."""
        if bytes_per_s > self.ceiling:
            return None
        if bytes_per_s <= max(self.base, self.floor):
            return 0.0
        return None if self.per_gib == 0 else (bytes_per_s - self.base) / self.per_gib * GIB


@dataclass(frozen=True, slots=True)
class MediumSpeed:
    """Speed of a medium, per volume.

    Attributes:
        read: bandwidth of reads.
        write: bandwidth of writes.
        shared_channel: reads and writes share one channel: together they take at most all of its time.
        latency_s: seconds from a request to its first byte.
        endurance_bytes_per_day: bytes that may be written to a volume in a day; None without a limit.
    """

    read: Bandwidth
    write: Bandwidth
    shared_channel: bool = False
    latency_s: float = 0.0
    endurance_bytes_per_day: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < inf:
            raise MediumError(f"speed.latency is {self.latency_s} s; it must be zero or above")
        if self.endurance_bytes_per_day is not None and self.endurance_bytes_per_day <= 0:
            raise MediumError(
                "endurance.writesPerDay must be above zero; leave it out where there is no limit"
            )

    def read_bytes_s(self, capacity_bytes: float, volumes: int) -> float:
        """Read bandwidth of ``volumes`` equal volumes that hold ``capacity_bytes`` in all."""
        return volumes * self.read.of_volume(capacity_bytes / volumes)

    def write_bytes_s(self, capacity_bytes: float, volumes: int) -> float:
        """Write bandwidth of ``volumes`` equal volumes that hold ``capacity_bytes`` in all."""
        return volumes * self.write.of_volume(capacity_bytes / volumes)
