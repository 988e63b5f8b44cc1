"""When the log may write: a budget of bytes a day, and a pause after errors. Pure; the time is passed in."""

import math

DAY_S = 86_400.0
# A quiet tier may save up this much of its budget for a burst.
BURST_S = 3_600.0
ERRORS_IN_A_ROW = 5
BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0


class WriteBudget:
    """A token bucket of bytes that may go to the device; ``bytes_per_day`` may be infinite.

    Cleaning spends without asking (it gives space back, and what it moves is bounded by what is put), so the
    level may become negative; nothing is put until it is positive again.
    """

    def __init__(self, bytes_per_day: float, now_s: float) -> None:
        self._rate = bytes_per_day / DAY_S
        self._level = self._rate * BURST_S
        self._at_s = now_s

    def level_bytes(self, now_s: float) -> float:
        """What may be written now; a clock that went back adds nothing."""
        if math.isfinite(self._level):
            gained = max(0.0, now_s - self._at_s) * self._rate
            self._level = min(self._level + gained, self._rate * BURST_S)
        self._at_s = now_s
        return self._level

    def spend(self, size_bytes: int) -> None:
        """Count bytes that go to the device."""
        self._level -= size_bytes

    def restore(self, level_bytes: float, at_s: float) -> None:
        """Go on from an earlier process's level, so that restarts do not refill the bucket."""
        if math.isfinite(self._level):
            self._level = min(self._level, level_bytes)
            self._at_s = min(self._at_s, at_s)


class Breaker:
    """Open (no writes) after `ERRORS_IN_A_ROW` failed writes: for 1 s, then longer, up to 60 s."""

    def __init__(self) -> None:
        self._errors = 0
        self._backoff_s = BACKOFF_S
        self._closed_from_s = -math.inf

    def is_open(self, now_s: float) -> bool:
        """Whether writes are refused; a clock that went back by more than the pause ends it."""
        return self._closed_from_s - BACKOFF_MAX_S <= now_s < self._closed_from_s

    def succeeded(self) -> None:
        """A write went well."""
        self._errors = 0
        self._backoff_s = BACKOFF_S

    def failed(self, now_s: float) -> None:
        """A write failed."""
        self._errors += 1
        if self._errors >= ERRORS_IN_A_ROW and not self.is_open(now_s):
            self._closed_from_s = now_s + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
