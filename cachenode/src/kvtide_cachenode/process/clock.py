"""Unix time that nobody sets: when a clock is put right, nothing ends early, or hours late."""

import time
from collections.abc import Callable


def steady_clock(
    wall: Callable[[], float] = time.time,
    even: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
) -> Callable[[], float]:
    """Seconds since 1970 as the machine's clock had it just now, going on evenly, also while it sleeps."""
    ahead_s = wall() - even()
    return lambda: even() + ahead_s
