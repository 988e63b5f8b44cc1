"""Batches in the order of their numbers, each once, with gaps closed where the publisher still has them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kvtide_operator.workload.kv_events.decode import Batch, EventError, decode

Message = tuple[int, bytes]
"""A batch's number, which an engine counts from 0 after each start, and its payload."""

Replay = Callable[[int], Iterable[Message]]
"""What the publisher still has from a number on; nothing where it cannot be asked."""

Numbered = tuple[int, Batch | None]
"""A batch with its number; None stands for batches that are lost."""


@dataclass(slots=True)
class Received:
    """Counts of batches: taken, of those replayed ones, lost for good, malformed; and restarts seen."""

    batches: int = 0
    repaired: int = 0
    lost: int = 0
    malformed: int = 0
    restarts: int = 0


class Order:
    """Puts what arrives in order; the first batch that comes is where it begins.

    Args:
        replay: asked when numbers are missing, from the first of them on.
        say: takes a sentence about each gap, restart and malformed batch.
    """

    def __init__(self, replay: Replay, say: Callable[[str], None]) -> None:
        self.received = Received()
        self._replay = replay
        self._say = say
        self._next: int | None = None
        self._newest_s = float("-inf")

    def catch_up(self) -> Iterator[Numbered]:
        """What the publisher has and has not come yet."""
        for number, payload in self._replay(self._next or 0):
            if self._next is None or number >= self._next:
                for taken in self._take(number, payload):
                    self.received.repaired += taken[1] is not None
                    yield taken

    def add(self, number: int, payload: bytes) -> Iterator[Numbered]:
        """What can be told now that this batch has arrived."""
        if self._next is not None and number < self._next:
            if _time_s(payload) <= self._newest_s:
                return  # a replay has brought it before
            self.received.restarts += 1
            self._say("the engine has restarted: its batches are numbered from 0 again")
            yield self._next, None
            self._next = 0
        if self._next is None:
            yield from self.catch_up()
        elif number > self._next:
            missing, before = number - self._next, self.received.lost
            yield from self.catch_up()
            if number >= self._next:
                yield from self._take(number, payload)
            lost = self.received.lost - before
            self._say(
                f"{missing:,} batches of events did not arrive; {missing - lost:,} of them were sent again,"
                f" {lost:,} are lost"
            )
        if self._next is None or number >= self._next:
            yield from self._take(number, payload)

    def _take(self, number: int, payload: bytes) -> Iterator[Numbered]:
        if self._next is not None and number > self._next:
            self.received.lost += number - self._next
            yield self._next, None
        self._next = number + 1
        try:
            batch = decode(payload)
        except EventError as error:
            self.received.malformed += 1
            self._say(f"batch {number:,} is left out: {error}")
            return
        self._newest_s = max(self._newest_s, batch.at_s)
        self.received.batches += 1
        yield number, batch


def _time_s(payload: bytes) -> float:
    try:
        return decode(payload).at_s
    except EventError:
        return float("-inf")
