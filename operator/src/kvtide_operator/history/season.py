"""Keeps every window of the loop as a period of history, and finds the same slot of the season before."""

from kvtide_operator.history.recorded import RecordedHistory
from kvtide_operator.plan.periods import planning_window, requests_in
from kvtide_operator.workload.trace import Trace


class Season:
    """The past of one cache, cut into periods that begin at whole multiples of their length.

    Args:
        history: where the periods are.
        period_s: whole seconds.
        season_s: how long ago the same slot is: a week, where weeks resemble each other.
        keep_s: how much history to keep.
    """

    def __init__(self, history: RecordedHistory, *, period_s: int, season_s: float, keep_s: float) -> None:
        self._history = history
        self._period_s = period_s
        self._season_s = season_s
        self._keep_s = keep_s
        self._next_start_s: int | None = None
        self._slot: tuple[int, Trace | None] | None = None

    def keep(self, seen: Trace | None, now_s: float) -> None:
        """Add the periods that have ended and were watched from their beginning.

        Args:
            seen: the live trace; it must reach back to the beginning of those periods.
            now_s: Unix time on the loop's clock.

        Raises:
            HistoryError: the storage refuses.
        """
        if self._next_start_s is None:
            self._next_start_s = -(-int(now_s) // self._period_s) * self._period_s
        while seen is not None and self._next_start_s + self._period_s <= now_s:
            start_s = self._next_start_s
            self._next_start_s = end_s = start_s + self._period_s
            requests = requests_in(seen, start_s - seen.started_at_s, end_s - seen.started_at_s)
            self._history.write(requests, start_s, end_s, self._keep_s)

    def slot(self, now_s: float) -> Trace | None:
        """What was asked one season ago in the period that comes now; None where history does not reach.

        Raises:
            HistoryError: the storage refuses.
        """
        period = int(now_s) // self._period_s
        if self._slot is None or self._slot[0] != period:
            self._slot = (period, self._read(period * self._period_s))
        return self._slot[1]

    def _read(self, start_s: int) -> Trace | None:
        span = self._history.span()
        if span is None:
            return None
        window = planning_window(span.start_s, start_s, self._period_s, self._season_s)
        return self._history.read(window.start_s, window.end_s) if window.seasonal else None
