"""Conditions of a status, as kstatus and ``kubectl wait`` read them."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from kvtide_operator.api.base import Model
from kvtide_operator.api.moment import Time

Truth = Literal["True", "False", "Unknown"]

MAX_MESSAGE_CHARACTERS = 1024
"""Longer sentences are cut: a status is read in a terminal, and the whole of it fits an object's limits."""


class Reported(Model):
    """A part of a status; what a newer or older operator wrote there besides is left aside."""

    model_config = ConfigDict(extra="ignore")


class Condition(Reported):
    """One condition; its time is that of its last change of ``status``."""

    type: str = Field(max_length=64, pattern=r"^[A-Z][A-Za-z]*$")
    status: Truth
    reason: str = Field(max_length=64, pattern=r"^[A-Z][A-Za-z]*$")
    message: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    last_transition_time: Time
    observed_generation: int | None = None


def condition(
    name: str, status: Truth, reason: str, message: str, *, at_s: float, generation: int | None = None
) -> Condition:
    """A condition as of now; `merged` gives it the time of its last change."""
    return Condition(
        type=name,
        status=status,
        reason=reason,
        message=shortened(message),
        last_transition_time=at_s,
        observed_generation=generation,
    )


def merged(last: Iterable[Condition], now: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions of now, each with its earlier time where its status is still the same."""
    before = {each.type: each for each in last}
    return tuple(
        each.model_copy(update={"last_transition_time": before[each.type].last_transition_time})
        if each.type in before and before[each.type].status == each.status
        else each
        for each in now
    )


def shortened(sentence: str) -> str:
    """A sentence within the limit of a message; one that is cut ends in an ellipsis."""
    if len(sentence) <= MAX_MESSAGE_CHARACTERS:
        return sentence
    return sentence[: MAX_MESSAGE_CHARACTERS - 1] + "…"
