"""Reads the engines' metrics out of Prometheus, once a round, in bounded time, series and bytes."""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from math import isfinite
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote_plus

from kvtide_operator.observe.prometheus.engine import EngineQueries, Expressions, falling_back
from kvtide_operator.observe.prometheus.lmcache import in_process, server
from kvtide_operator.observe.prometheus.promql import Series
from kvtide_operator.observe.prometheus.query import AnswerError, PrometheusAccess, Query, session_for
from kvtide_operator.observe.prometheus.session import BoundedSession
from kvtide_operator.observe.prometheus.sglang import SGLANG
from kvtide_operator.observe.prometheus.vllm import VLLM
from kvtide_operator.world.metrics import EngineMetrics, Missing, Reading, Stale, Value, unavailable

REQUEST_TIMEOUT_S: Final = 5
"""Of one request, to connect and between two parts of the answer."""
READING_TIMEOUT_S: Final = 20.0
"""Of a whole reading, retries included; what is not known by then is missing."""
MAX_QUERY_CHARACTERS: Final = 3500
"""Of a query as it stands in a URL: the usual limit of proxies is 8 KiB for all headers."""
MAX_DATING_STEPS: Final = 200
"""Evaluations of the sub-query that looks for the newest sample of engines that are gone."""

ENGINES: Final[Mapping[str, EngineQueries]] = {"VLLM": VLLM, "SGLANG": SGLANG}
"""By ``spec.engine.kind``."""
_CACHE_BLOCKS = "cache_blocks"


class MetricsSource(Protocol):
    """Where engine metrics come from."""

    async def read(self, at_s: float, window_s: float) -> EngineMetrics:
        """The metrics of the window that ends at ``at_s``, seconds since the epoch.

        It does not raise: what could not be read is `Missing`, with the reason.
        """


class PrometheusSource:
    """The metrics of one cache's engines.

    Args:
        access: the server.
        kind: of the engines.
        selector: labels that all of their series have.
        stale_after_s: age of the newest sample beyond which nothing is current.
        executor: where requests wait; its number of threads bounds how many do at a time.
        request_timeout_s: see `REQUEST_TIMEOUT_S`.

    Raises:
        SelectorError: a label of the selector cannot be one.
    """

    def __init__(
        self,
        access: PrometheusAccess,
        kind: Literal["VLLM", "SGLANG"],
        selector: Mapping[str, str],
        *,
        stale_after_s: float,
        executor: Executor,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        Series.of(selector, 1)
        self._access = access
        self._engine = ENGINES[kind]
        self._selector = dict(selector)
        self._stale_after_s = stale_after_s
        self._executor = executor
        self._request_timeout_s = request_timeout_s

    async def read(self, at_s: float, window_s: float) -> EngineMetrics:
        """As `MetricsSource.read`."""
        reading = asyncio.get_running_loop().run_in_executor(self._executor, self._read, at_s, window_s)
        try:
            async with asyncio.timeout(READING_TIMEOUT_S):
                return await reading
        except TimeoutError:
            return unavailable(
                at_s, window_s, f"{self._access.url} was not read within {READING_TIMEOUT_S:g} s"
            )

    def _read(self, at_s: float, window_s: float) -> EngineMetrics:
        with session_for(self._access, READING_TIMEOUT_S) as session:
            try:
                return self._ask(session, at_s, window_s)
            except AnswerError as error:
                return unavailable(at_s, window_s, f"{self._access.url}: {error}", session.warnings)

    def _ask(self, session: BoundedSession, at_s: float, window_s: float) -> EngineMetrics:
        query = Query(session, self._access, self._request_timeout_s)
        series = Series.of(self._selector, window_s)
        newest_s = self._newest_sample_s(query, series, at_s)
        if newest_s is None:
            why = (
                f"{self._access.url} has had no series {series.pick(self._engine.heartbeat)}; "
                "check metrics.selector and the scrape configuration"
            )
            return unavailable(at_s, window_s, why, session.warnings)
        stale = at_s - newest_s > self._stale_after_s
        expressions = dict(falling_back(self._engine.expressions(series), in_process(series), server(series)))
        if self._engine.cache_blocks is not None:
            expressions[_CACHE_BLOCKS] = self._engine.cache_blocks(series)
        readings: dict[str, Reading] = {}
        for batch in _batches(expressions):
            found = query.instant(" or ".join(batch.values()), newest_s if stale else at_s)
            for name in batch:
                values = [row for row in found if row["metric"].get("reading") == name]
                readings[name] = _reading(name, values, at_s, newest_s if stale else None)
        if _CACHE_BLOCKS in readings:
            readings["gpu_cache_tokens"] = readings.pop(_CACHE_BLOCKS)
        return EngineMetrics(at_s=at_s, window_s=window_s, warnings=session.warnings, **readings)

    def _newest_sample_s(self, query: Query, series: Series, at_s: float) -> float | None:
        """When any engine was last scraped; None if that is longer ago than a window and twice `stale_after`.

        A series that ended is not found at a moment after its end, only by looking back.
        """
        heartbeat = series.pick(self._engine.heartbeat)
        back_s = round(max(series.window_s, 2 * self._stale_after_s))
        step_s = max(back_s // MAX_DATING_STEPS, 1)
        found = query.instant(
            f"max(timestamp({heartbeat})) or max(max_over_time(timestamp({heartbeat})[{back_s}s:{step_s}s]))",
            at_s,
        )
        return float(found[0]["value"][1]) if found else None


def _batches(expressions: Expressions) -> Iterable[dict[str, str]]:
    """Expressions under their names, as many to a query as a URL holds."""
    batch: dict[str, str] = {}
    length = 0
    for name, expression in expressions.items():
        labelled = f'label_replace({expression}, "reading", "{name}", "", "")'
        more = len(quote_plus(f"{labelled} or "))
        if batch and length + more > MAX_QUERY_CHARACTERS:
            yield batch
            batch, length = {}, 0
        batch[name] = labelled
        length += more
    yield batch


def _reading(name: str, rows: list[dict[str, Any]], at_s: float, stale_since_s: float | None) -> Reading:
    if not rows:
        return Missing("no engine exposes it, or none was scraped twice within the window")
    value = _tokens(rows) if name == _CACHE_BLOCKS else float(rows[0]["value"][1])
    if value is None or not isfinite(value):
        return Missing(f"there is nothing to count it from within the window ({value})")
    return Value(at_s, value) if stale_since_s is None else Stale(stale_since_s, value)


def _tokens(rows: list[dict[str, Any]]) -> float | None:
    """Mean tokens of the engines' GPU caches, from labels."""
    tokens = engines = 0.0
    for row in rows:
        labels, count = row["metric"], float(row["value"][1])
        try:
            tokens += count * int(labels["num_gpu_blocks"]) * int(labels["block_size"])
        except (KeyError, ValueError):
            return None
        engines += count
    return tokens / engines if engines else None
