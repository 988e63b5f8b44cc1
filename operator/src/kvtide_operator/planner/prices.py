"""Prices of declared classes; light enough for a process that does not plan itself."""

from math import inf

from kvtide_operator.api import tierclass
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.simulate.media import Bandwidth
from kvtide_operator.simulate.prices import GIB, Ladder, Price, Rung

MB = 1_000_000


def bandwidth_of(declared: tierclass.Bandwidth) -> Bandwidth:
    """The speed of a volume as the simulator takes it."""
    ceiling = inf if declared.ceiling is None else declared.ceiling
    return Bandwidth(declared.base, declared.per_gi_b, declared.floor, ceiling)


def price_of(tier_class: TierClass) -> Price:
    """The price of a class as the simulator takes it."""
    price = tier_class.spec.price
    throughput = [Rung(step.above / MB, step.per_m_bps_hour) for step in price.throughput]
    iops = [Rung(step.above, step.per_iops_hour) for step in price.iops]
    return Price(
        currency=price.currency,
        capacity=Ladder.up_to(
            "price.capacity",
            [(step.up_to and step.up_to / GIB, step.per_gi_b_hour) for step in price.capacity],
        ),
        throughput=Ladder("price.throughput", tuple(throughput)) if throughput else None,
        iops=Ladder("price.iops", tuple(iops)) if iops else None,
    )
