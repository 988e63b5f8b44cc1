"""What the planner reads of a simulated configuration, and the three objectives of Kareto's eq. 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvtide_operator.simulate.configuration import Configuration

OBJECTIVES = ("cost_per_hour", "ttft_mean_s", "-throughput_tok_s")
"""Columns of an objective array; all three are minimised."""


class Outcome(Protocol):
    """What simulating a configuration gave; `simulate.result.Result` is one."""

    @property
    def prefix_hit_ratio(self) -> float:
        """Blocks hit / blocks requested."""

    @property
    def ttft_mean_s(self) -> float:
        """Mean time to first token."""

    @property
    def ttft_p50_s(self) -> float:
        """Median time to first token."""

    @property
    def ttft_p99_s(self) -> float:
        """99th percentile of the time to first token."""

    @property
    def throughput_tok_s(self) -> float:
        """Output tokens a second."""

    @property
    def storage_cost_per_hour(self) -> float:
        """DRAM and SSD, without GPUs."""

    @property
    def cost_per_hour(self) -> float:
        """Storage and GPUs."""

    @property
    def ssd_bytes(self) -> int:
        """SSD provisioned over all volumes, 0 for none."""

    @property
    def endurance_used(self) -> float | None:
        """Bytes written to SSD a day / what its class allows; None without a limit."""

    @property
    def stable(self) -> bool:
        """Whether the queue stays bounded; where it does not, latencies mean nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration and what simulating it gave."""

    configuration: Configuration
    outcome: Outcome


def objectives_of(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """float64[candidates, 3] in the order of `OBJECTIVES`, as they come: an unstable TTFT is not masked."""
    rows = [(c.outcome.cost_per_hour, c.outcome.ttft_mean_s, -c.outcome.throughput_tok_s) for c in candidates]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(OBJECTIVES))
