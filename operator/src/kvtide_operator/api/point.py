"""A point of the frontier: what a cache could be, and what that was simulated to give."""

from typing import Annotated

from pydantic import Field

from kvtide_operator.api.base import ObjectName
from kvtide_operator.api.conditions import Reported
from kvtide_operator.api.moment import Figure
from kvtide_operator.api.quantity import Duration, Quantity


class Latency(Reported):
    """A latency by its mean and percentiles.

    Attributes:
        mean: over all requests.
        p50: the median.
        p99: the 99th percentile.
    """

    mean: Duration
    p50: Duration
    p99: Duration


class Point(Reported):
    """One configuration and its simulated outcome.

    Attributes:
        dram: capacity of the DRAM tier over all nodes.
        ssd: size of the SSD volumes over all nodes; absent where nothing is written to an SSD.
        class_name: the SSD's class; absent with it.
        ttl: how long a copy on SSD is kept after its last use; absent where there is none or where each
            group has its own.
        groups: that by TTL group.
        tiers_per_hour: what DRAM and SSD cost an hour.
        cost_per_hour: the same with the GPUs.
        throughput: output tokens a second.
        ttft: time to first token; absent where the queue grows and latencies mean nothing.
        hit_ratio: blocks hit / blocks requested.
        stable: whether the queue stays bounded.
    """

    dram: Quantity
    ssd: Quantity | None = None
    class_name: ObjectName | None = Field(default=None, alias="class")
    ttl: Duration | None = None
    groups: Annotated[tuple[Duration, ...], Field(max_length=17)] | None = None
    tiers_per_hour: Figure
    cost_per_hour: Figure
    throughput: Figure
    ttft: Latency | None = None
    hit_ratio: Figure
    stable: bool
