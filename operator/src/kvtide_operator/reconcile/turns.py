"""The turns of one cache, a pass or a round at a time, and the one place where a failure is said."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Final, Literal

from kvtide_operator.act.kubernetes.errors import ApiError, NotLeaderError
from kvtide_operator.loop import Loop
from kvtide_operator.reconcile.cache import LiveCache
from kvtide_operator.reconcile.failures import Failure, failure_of
from kvtide_operator.reconcile.metrics import ReconcileMetrics

SPACING_S: Final = 0.2
"""Between two passes of a cache at least: changes come in swarms."""
UNDER_WAY_S: Final = 2.0
"""Until the next pass of a cache that waits for something; one that acted is looked at again at once."""
SETTLED_S: Final = 30.0
"""Until the next pass of one that has, when nothing is heard of it."""
_NEXT_S: Final = {"settled": SETTLED_S, "acted": SPACING_S, "waits": UNDER_WAY_S}
LONGEST_BACKOFF_S: Final = 60.0
"""Between passes that fail: 1, 2, 4 … seconds, up to this."""

log = logging.getLogger("kvtide_operator.controller")


@dataclass
class Turns:
    """Whatever fails in a turn becomes a log line, a metric, an Event and a part of the status.

    Attributes:
        woken: set when something about the cache has changed.
        loop: of its rounds; None before the first.
        failures: passes in a row that failed.
        tasks: what takes the turns.
    """

    cache: LiveCache
    metrics: ReconcileMetrics
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    loop: Loop | None = None
    failures: int = 0
    tasks: tuple[asyncio.Task[None], ...] = ()

    async def take_pass(self) -> float:
        """One pass; how many seconds to wait for the next."""
        began_s = time.monotonic()
        ending: str = "failed"
        try:
            ending = await self.cache.run_pass()
            self.metrics.bill(self.cache.key, self.cache.cost_per_hour)
            for outcome in self.cache.failed:
                self.metrics.failures.labels(*self.cache.key, "step", outcome.ending).inc()
            self.failures = 0
            return _NEXT_S[ending]
        except NotLeaderError:
            return LONGEST_BACKOFF_S  # the controller is about to be stopped
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said in one place
            self.failures += 1
            await self.failed("pass", error)
            return min(2.0 ** (self.failures - 1), LONGEST_BACKOFF_S)
        finally:
            self.metrics.passes.labels(ending).observe(time.monotonic() - began_s)

    async def went_on_without(self, reason: str, sentence: str) -> None:
        """Say what a round could not have, which came to its end all the same."""
        self.metrics.failures.labels(*self.cache.key, "round", reason).inc()
        log.warning("A round went on without", extra={"cache": str(self.cache.key), "reason": sentence})
        await self.cache.warn(Failure(reason, sentence))

    async def failed(self, of: Literal["pass", "round"], error: Exception) -> None:
        """Say what has failed."""
        cache, failure = self.cache, failure_of(error)
        self.metrics.failures.labels(*cache.key, of, failure.reason).inc()
        log.warning(
            "A %s failed", of, extra={"cache": str(cache.key), "reason": failure.sentence},
            exc_info=None if failure.expected else error,
        )  # fmt: skip
        try:
            await (cache.pass_failed(failure) if of == "pass" else cache.round_failed(failure))
        except (ApiError, NotLeaderError) as unsaid:
            log.warning("Could not say so", extra={"cache": str(cache.key), "reason": str(unsaid)})
        except Exception:  # the turns go on, whatever it is
            log.exception("Could not say so", extra={"cache": str(cache.key)})
