"""How large an SSD has to be: for what the TTLs keep, and for the bandwidth that takes."""

from dataclasses import dataclass
from math import inf

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kvtide_operator.simulate.cache.passes import CachePass
from kvtide_operator.simulate.errors import SimulationError
from kvtide_operator.simulate.media import Bandwidth, MediumSpeed
from kvtide_operator.simulate.requests import Rows
from kvtide_operator.simulate.scenario import Scenario, SsdClass

CHANNEL_LOAD = 0.8
"""The share of the channel that the mean demand may take. Ours: the paper names no value, and at 0.8 an
M/D/1 queue waits twice its service time."""


SHORTEST_SPAN_S = 1.0
"""Demand is a mean over the trace, over a second at least: a burst has no mean."""


@dataclass(frozen=True, slots=True)
class Provision:
    """The SSD of a configuration.

    Attributes:
        tier: its class.
        volumes: how many volumes.
        paid_bytes: what is paid for, over all volumes.
        cap_blocks: copies that fit.
        cost_per_hour: in the currency of its price.
    """

    tier: SsdClass
    volumes: int
    paid_bytes: int
    cap_blocks: int
    cost_per_hour: float


@dataclass(frozen=True, slots=True)
class Retention:
    """What an SSD without any limit would see under given TTLs.

    Attributes:
        written_blocks: copies written.
        kept_blocks: demotions that found their copy still there: the block was asked for within its TTL.
        peak_blocks: most copies at once.
        mean_blocks: copies at a time, in the mean over the demotions.
    """

    written_blocks: int
    kept_blocks: int
    peak_blocks: int
    mean_blocks: float


def retention(
    passed: CachePass, group: NDArray[np.int8], ttl_s: tuple[float, ...], needed_worth: int
) -> Retention:
    """Walk the demotions of a cache pass once; ``group`` is int8[blocks], ``ttl_s`` one TTL per group."""
    return Retention(
        *_walk(
            passed.pool.demoted,
            passed.demoted_s,
            passed.next_demotion,
            group,
            np.array(ttl_s, dtype=np.float64),
            needed_worth,
        )
    )


@njit(cache=True)
def _walk(
    demoted: Rows,
    demoted_s: NDArray[np.float64],
    next_demotion: NDArray[np.int64],
    group: NDArray[np.int8],
    ttl_s: NDArray[np.float64],
    needed_worth: int,
) -> tuple[int, int, int, float]:
    # Within a group copies expire in the order they were demoted, so one pointer per group finds them all.
    groups, written, kept, held, peak, held_sum = len(ttl_s), 0, 0, 0, 0, 0
    oldest = np.zeros(groups, dtype=np.int64)
    there = np.zeros(len(demoted), dtype=np.bool_)
    found = np.zeros(len(demoted), dtype=np.bool_)  # the block's earlier copy was still there
    for at in range(len(demoted)):
        now_s = demoted_s[at]
        for g in range(groups):
            while oldest[g] < at and demoted_s[oldest[g]] + ttl_s[g] < now_s:
                expired = oldest[g]
                following = next_demotion[expired]
                if group[demoted[expired].block] == g and there[expired]:
                    held -= following < 0 or not found[following]
                oldest[g] += 1
        ttl = ttl_s[group[demoted[at].block]]
        if found[at]:
            there[at] = True
            kept += 1
        elif ttl > 0.0 and demoted[at].worth & needed_worth == needed_worth:
            there[at] = True
            written += 1
            held += 1
            peak = max(peak, held)
        held_sum += held
        following = next_demotion[at]
        if following >= 0:
            found[following] = there[at] and demoted_s[following] - now_s <= ttl
    return written, kept, peak, held_sum / max(len(demoted), 1)


def provision(scenario: Scenario, tier_class: str, volumes: int, kept: Retention) -> Provision:
    """Room for what is kept, with headroom, and for the bandwidth of keeping it, up to the byte cap.

    Raises:
        SimulationError: no such class, or a block does not fit.
    """
    tier = scenario.ssd_classes.get(tier_class)
    if tier is None:
        known = ", ".join(sorted(scenario.ssd_classes)) or "none"
        raise SimulationError(
            f"SSD class {tier_class!r} is not defined: name one of those that are ({known})"
        )
    block_bytes, sizes = scenario.ssd_block_bytes, tier.sizes
    most_bytes = inf if scenario.ssd_max_bytes is None else scenario.ssd_max_bytes
    if sizes.max_bytes is not None:
        most_bytes = min(most_bytes, sizes.max_bytes // sizes.step_bytes * sizes.step_bytes * volumes)
    if most_bytes < block_bytes:
        raise SimulationError(
            f"a block of {block_bytes:.0f} bytes does not fit an SSD of {most_bytes:.0f} bytes: "
            "give it room for a block at least"
        )
    rate = block_bytes / max(scenario.trace.span_s, SHORTEST_SPAN_S)
    needed_bytes = max(
        max(kept.peak_blocks, 1) * block_bytes * scenario.ssd_headroom,
        _bytes_for(tier.speed, kept.kept_blocks * rate, kept.written_blocks * rate, volumes),
    )
    paid_bytes = sizes.paid_bytes(min(needed_bytes, most_bytes), volumes)
    fastest = max(
        bandwidth.of_volume(paid_bytes / volumes) for bandwidth in (tier.speed.read, tier.speed.write)
    )
    return Provision(
        tier=tier,
        volumes=volumes,
        paid_bytes=paid_bytes,
        cap_blocks=int(min(paid_bytes, most_bytes) / block_bytes),
        cost_per_hour=tier.price.per_hour(paid_bytes, volumes=volumes, throughput_mb_s=fastest / 1e6),
    )


def _bytes_for(speed: MediumSpeed, read_bytes_s: float, write_bytes_s: float, volumes: int) -> float:
    """Least bytes over ``volumes`` volumes that carry so much, or as near to it as the medium comes."""
    reads, writes = read_bytes_s / volumes / CHANNEL_LOAD, write_bytes_s / volumes / CHANNEL_LOAD
    if speed.shared_channel:  # each needs the time of both
        reads = writes = reads + writes
    return volumes * max(_reaching(speed.read, reads), _reaching(speed.write, writes))


def _reaching(bandwidth: Bandwidth, bytes_s: float) -> float:
    if bandwidth.per_gib == 0:
        return 0.0  # every size is as fast
    capacity_bytes = bandwidth.capacity_for(min(bytes_s, bandwidth.ceiling))
    assert capacity_bytes is not None
    return capacity_bytes
