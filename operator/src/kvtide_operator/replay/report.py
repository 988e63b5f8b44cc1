"""What a replay counts while it runs, and the report it ends with."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kvtide_operator.replay.measure import Operation

REASONS_KEPT = 5
"""Different reasons of errors that a report names. Further errors are counted only."""

PROGRESS_INTERVAL_S = 0.1
"""Shortest time between two calls of ``on_progress``, except for the last."""


@dataclass(slots=True)
class ReplayTotals:
    """Running totals; requests and blocks are those of finished requests, errors count at once."""

    elapsed_s: float = 0.0
    requests: int = 0
    blocks_requested: int = 0
    blocks_looked_up: int = 0
    blocks_hit: int = 0
    get_bytes: int = 0
    set_bytes: int = 0
    errors: int = 0
    wrong_bytes: int = 0
    error_reasons: list[str] = field(default_factory=list)

    def count_error(self, reason: str) -> None:
        """Count one failed command, and keep its reason while there is room."""
        self.errors += 1
        if reason not in self.error_reasons and len(self.error_reasons) < REASONS_KEPT:
            self.error_reasons.append(reason)

    @property
    def prefix_hit_ratio(self) -> float | None:
        """Blocks hit over blocks requested; None before any block was requested."""
        return self.blocks_hit / self.blocks_requested if self.blocks_requested else None


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Figures of one replay. A figure of which there was no instance is None, never zero.

    Attributes:
        requests: requests played to their end.
        blocks_requested: all blocks of those requests.
        blocks_looked_up: blocks asked for with EXISTS, up to and with the first miss of each request.
        blocks_hit: blocks that were there and loaded.
        prefix_hit_ratio: ``blocks_hit`` over ``blocks_requested``.
        errors: commands that were refused, timed out or met a broken connection.
        error_reasons: the first different reasons.
        wrong_bytes: loaded values that were not what had been stored.
        get_gb_s: 10^9 bytes of values loaded, over the seconds in which at least one GET was under way: from
            handing the command to the socket until its last byte was there and compared.
        set_gb_s: the same of SETs, until the reply was there.
        get_p50_ms, get_p99_ms, set_p99_ms, exists_p99_ms: from command to reply, of commands that got a
            reply; within 1 %.
        behind_max_s: with a pace, how late the latest request began; more than a few ms says that the
            servers, or as many connections, cannot follow the pace. None without a pace.
        gave_up: why the run ended before the trace did; None when it did not.
        wall_s: seconds from the first request to the end of the last.
    """

    requests: int
    blocks_requested: int
    blocks_looked_up: int
    blocks_hit: int
    prefix_hit_ratio: float | None
    errors: int
    error_reasons: list[str]
    wrong_bytes: int
    get_gb_s: float | None
    set_gb_s: float | None
    get_p50_ms: float | None
    get_p99_ms: float | None
    set_p99_ms: float | None
    exists_p99_ms: float | None
    behind_max_s: float | None
    gave_up: str | None
    wall_s: float


class Books:
    """What all workers of one run count together."""

    def __init__(self, on_progress: Callable[[ReplayTotals], None] | None) -> None:
        self.totals = ReplayTotals()
        self.exists, self.get, self.set = Operation(), Operation(), Operation()
        self._on_progress = on_progress
        self._told_s = 0.0
        self._began_s = time.perf_counter()

    def finish_request(self, requested: int, looked_up: int, hit: int) -> None:
        """Count one request's blocks, and tell the totals if they were last told long enough ago."""
        totals = self.totals
        totals.requests += 1
        totals.blocks_requested += requested
        totals.blocks_looked_up += looked_up
        totals.blocks_hit += hit
        if time.perf_counter() - self._began_s - self._told_s >= PROGRESS_INTERVAL_S:
            self.tell()

    def tell(self) -> None:
        """Give a copy of the totals to whoever watches."""
        self.totals.elapsed_s = self._told_s = time.perf_counter() - self._began_s
        self.totals.get_bytes, self.totals.set_bytes = self.get.bytes, self.set.bytes
        if self._on_progress is not None:
            self._on_progress(replace(self.totals, error_reasons=list(self.totals.error_reasons)))

    def report(self, behind_max_s: float | None, gave_up: str | None) -> ReplayReport:
        """The report on everything up to the last `tell`."""
        totals = self.totals
        return ReplayReport(
            requests=totals.requests,
            blocks_requested=totals.blocks_requested,
            blocks_looked_up=totals.blocks_looked_up,
            blocks_hit=totals.blocks_hit,
            prefix_hit_ratio=totals.prefix_hit_ratio,
            errors=totals.errors,
            error_reasons=totals.error_reasons,
            wrong_bytes=totals.wrong_bytes,
            get_gb_s=self.get.gb_s,
            set_gb_s=self.set.gb_s,
            get_p50_ms=self.get.latency.quantile_ms(0.5),
            get_p99_ms=self.get.latency.quantile_ms(0.99),
            set_p99_ms=self.set.latency.quantile_ms(0.99),
            exists_p99_ms=self.exists.latency.quantile_ms(0.99),
            behind_max_s=behind_max_s,
            gave_up=gave_up,
            wall_s=totals.elapsed_s,
        )
