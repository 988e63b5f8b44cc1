"""Where defects go: an exception that nobody expected is counted, and logged with its traceback.

Whoever notes one still has to decide what becomes of the work at hand: a connection is closed after an error
reply, a background task goes on with its next round.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

# Of each place one traceback in so long; the others are counted, and told with the next one.
QUIET_S: Final = 1.0
log = logging.getLogger("kvtide_node")


class Failures:
    """Unexpected exceptions by where they came from: ``total`` is what the metrics show."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total: dict[str, int] = {}
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}  # when, and how many there had been by then

    def note(self, where: str, error: BaseException, doing: str = "") -> None:
        """Count ``error`` under ``where``, one of a few fixed words; ``doing`` is for the log line alone."""
        self.total[where] = total = self.total.get(where, 0) + 1
        now_s = self._clock()
        before_s, before = self._logged.get(where, (now_s - QUIET_S, 0))
        if now_s - before_s < QUIET_S:
            return
        self._logged[where] = now_s, total
        log.error(
            "internal error in %s%s",
            where,
            f" ({doing})" if doing else "",
            exc_info=error,
            extra={"where": where, "unlogged": total - before - 1},
        )
