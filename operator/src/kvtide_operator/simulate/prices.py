"""What storage and GPUs cost: the non-linear φ_k of Kareto (section 3.1, equation 2) and the GPU-hours.

Prices come in as decimals, as printed in a price list, and go out as floats, in the price's currency.
A price that nobody gave is `None`, and so is every cost that would need it: never zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from math import ceil

GIB = 1 << 30


class PriceError(ValueError):
    """A price list or a volume that cannot be; the message names the part and the cure."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung of a price ladder.

    Attributes:
        above: the amount at which the rung begins; what lies below is charged by the rungs before it.
        per_unit_hour: price of every unit on the rung, per hour.
        per_hour: charged once an amount reaches above ``above``: a cliff, such as a dearer disk type.
    """

    above: float
    per_unit_hour: Decimal
    per_hour: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Ladder:
    """A graduated price of one resource: never falls as the amount grows.

    Attributes:
        name: the part of the price list, for messages.
        rungs: in order; what lies below the first costs nothing.
    """

    name: str
    rungs: tuple[Rung, ...]

    def __post_init__(self) -> None:
        if not self.rungs:
            raise PriceError(f"{self.name} is empty; give at least one rate")
        for rung in self.rungs:
            for value in (rung.per_unit_hour, rung.per_hour):
                if not value.is_finite() or value < 0:
                    raise PriceError(
                        f"{self.name} has a price of {value} above {rung.above:g}; more must never cost less:"
                        " give zero or a positive price"
                    )
        for below, rung in pairwise(self.rungs):
            if rung.above <= below.above:
                raise PriceError(
                    f"{self.name} goes from {below.above:g} to {rung.above:g}; put the rates in rising order"
                )
        if self.rungs[0].above < 0:
            raise PriceError(f"{self.name} begins at {self.rungs[0].above:g}; begin at zero or above")

    @classmethod
    def up_to(cls, name: str, rungs: Sequence[tuple[float | None, Decimal]]) -> "Ladder":
        """From pairs of the amount at which a rate ends (None for the last) and the rate."""
        ends = [end for end, _ in rungs]
        if None in ends[:-1] or (ends and ends[-1] is not None):
            raise PriceError(
                f"{name} needs an upTo on every rate but the last, so that every amount has a price"
            )
        begins = [0.0, *(float(end) for end in ends if end is not None)]
        return cls(name, tuple(Rung(begin, rate) for begin, (_, rate) in zip(begins, rungs, strict=True)))

    def per_hour(self, amount: float) -> float:
        """Price of ``amount`` units for an hour."""
        ends = (*(rung.above for rung in self.rungs[1:]), float("inf"))
        return sum(
            float(rung.per_hour) + float(rung.per_unit_hour) * (min(amount, end) - rung.above)
            for rung, end in zip(self.rungs, ends, strict=True)
            if amount > rung.above
        )


@dataclass(frozen=True, slots=True)
class Price:
    """φ_k: what a medium costs, charged on what is paid for rather than on what is used.

    Attributes:
        currency: ISO 4217, such as USD.
        capacity: over GiB, of all volumes together.
        throughput: over MB/s of each volume; None where the capacity price includes it.
        iops: over I/O operations a second of each volume; None where the capacity price includes them.
    """

    currency: str
    capacity: Ladder
    throughput: Ladder | None = None
    iops: Ladder | None = None

    def per_hour(
        self, paid_bytes: float, *, volumes: int = 1, throughput_mb_s: float = 0.0, iops: float = 0.0
    ) -> float:
        """Price of an hour: ``paid_bytes`` in all, and what each of the volumes is provisioned for."""
        cost = self.capacity.per_hour(paid_bytes / GIB)
        if self.throughput is not None:
            cost += volumes * self.throughput.per_hour(throughput_mb_s)
        if self.iops is not None:
            cost += volumes * self.iops.per_hour(iops)
        return cost


@dataclass(frozen=True, slots=True)
class VolumeSizes:
    """The sizes in which a provider sells a volume, in bytes; without a maximum any size is sold."""

    min_bytes: int = 0
    max_bytes: int | None = None
    step_bytes: int = 1

    def __post_init__(self) -> None:
        if self.step_bytes <= 0:
            raise PriceError(f"volume.step is {self.step_bytes}; it must be above zero")
        if self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise PriceError(f"volume.min {self.min_bytes} is above volume.max {self.max_bytes}; swap them")

    def paid_bytes(self, capacity_bytes: float, volumes: int = 1) -> int:
        """Bytes paid for so that ``volumes`` volumes hold ``capacity_bytes`` in all; 0 for no capacity.

        Raises:
            PriceError: a volume would be above the provider's maximum.
        """
        if capacity_bytes <= 0:
            return 0
        steps = ceil(capacity_bytes / volumes / self.step_bytes)
        size = max(steps * self.step_bytes, self.min_bytes)
        if self.max_bytes is not None and size > self.max_bytes:
            raise PriceError(
                f"{capacity_bytes / GIB:.0f} GiB on {volumes} volumes is {size / GIB:.0f} GiB a volume; the"
                f" provider sells up to {self.max_bytes / GIB:.0f} GiB: use more volumes"
            )
        return size * volumes


def one_currency(currencies: Iterable[str]) -> str:
    """The currency that all prices share.

    Raises:
        PriceError: they do not share one; costs in two currencies cannot be compared.
    """
    found = sorted(set(currencies))
    if len(found) != 1:
        raise PriceError(
            f"the prices are in {', '.join(found) or 'no currency'}; give all of them in one currency"
        )
    return found[0]
