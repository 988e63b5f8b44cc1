"""Where nodes run: on this machine or on Kubernetes, the loop asks both the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvtide_operator.api.status import DecisionStatus
from kvtide_operator.decide.policy import Verdict
from kvtide_operator.decide.target import Target


@dataclass(frozen=True, slots=True)
class Resized:
    """How one node answered: what it holds now, or why it refused."""

    node: str
    capacity_bytes: int | None
    problem: str | None = None


class Place(Protocol):
    """Where nodes run, and what the loop may do to them."""

    @property
    def target(self) -> Target:
        """What the whole cache shall hold, as it was decided last."""

    @property
    def ssd_class(self) -> str | None:
        """The class of its SSD, None without one."""

    @property
    def decisions(self) -> Sequence[DecisionStatus]:
        """The moves so far, newest first."""

    @property
    def approved(self) -> bool:
        """In mode Advise, whether someone approved the present plan."""

    async def act(self, verdict: Verdict, decision: DecisionStatus) -> Sequence[Resized]:
        """Bring the whole cache to the verdict's target, now or from now on."""
