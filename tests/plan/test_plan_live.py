"""What moving a running cache would gain, and where it goes when no size keeps the constraints."""

from dataclasses import dataclass

import pytest

from kvtide_operator.plan.live import gain
from kvtide_operator.plan.outcome import Candidate
from kvtide_operator.plan.selector import Constraints, Prefer, select
from kvtide_operator.simulate.configuration import Configuration


@dataclass(frozen=True)
class Seen:
    storage_cost_per_hour: float
    ttft_mean_s: float
    throughput_tok_s: float
    stable: bool = True
    endurance_used: float | None = None
    prefix_hit_ratio: float = 0.5
    ttft_p50_s: float = 1.0
    ttft_p99_s: float = 2.0
    cost_per_hour: float = 10.0


def point(dram: int, *seen: float, stable: bool = True) -> Candidate:
    return Candidate(Configuration(dram), Seen(*seen, stable=stable))


@pytest.mark.parametrize(
    ("prefer", "share"), [("Cost", 0.25), ("Latency", -0.5), ("Throughput", 0.1), ("Balanced", 0.25)]
)
def test_the_gain_is_a_share_of_what_is_preferred(prefer: Prefer, share: float) -> None:
    assert gain(point(1, 4.0, 1.0, 100.0), point(2, 3.0, 1.5, 110.0), prefer) == pytest.approx(share)


def test_nothing_is_gained_from_nothing() -> None:
    assert gain(point(1, 0.0, 1.0, 100.0), point(2, 3.0, 1.0, 100.0), "Cost") == 0.0


def test_of_growing_queues_the_nearest_to_a_stable_one_serves_most() -> None:
    queues = [point(1, 1.0, 9.0, 100.0, stable=False), point(2, 2.0, 9.0, 130.0, stable=False)]
    selection = select(queues, Constraints(ttft_p99_s=1.0), "Cost")
    assert not selection.feasible
    assert selection.chosen.configuration.dram_bytes == 2


def test_a_stable_point_is_nearer_than_any_growing_queue() -> None:
    points = [point(1, 1.0, 9.0, 500.0, stable=False), point(2, 2.0, 9.0, 100.0)]
    assert select(points, Constraints(ttft_p99_s=1.0), "Cost").chosen.configuration.dram_bytes == 2
