"""What engines say of themselves: readings in which nothing known is never mistaken for nothing there."""

from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Value:
    """A finite number, and when it was true, in seconds since the epoch."""

    at_s: float
    value: float


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing new for too long: since when, and what was known then."""

    since_s: float
    last: float


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing is known, and why."""

    why: str


Reading = Value | Stale | Missing
"""Zero is a `Value`. An empty answer, NaN, a failure and an old sample are not."""

_NOT_ASKED = Missing("was not asked for")


def known(reading: Reading) -> float | None:
    """The number of a `Value`; None where it is stale or missing."""
    return reading.value if isinstance(reading, Value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """All engines of a cache over one window of time.

    Ratios are of tokens, so that with blocks of one size they are ratios of blocks. Rates are per second.

    Attributes:
        at_s: the window's end, seconds since the epoch.
        window_s: its length.
        instances: engines that report, data-parallel ranks counted one by one.
        requests_per_s: requests that got their first token.
        prompt_tokens_per_s: tokens of prompts, cached or not.
        generation_tokens_per_s: tokens made.
        running: requests in a batch, at the window's end.
        waiting: requests in a queue, at the window's end.
        ttft_mean_s: time to first token.
        ttft_p50_s: its median.
        ttft_p99_s: its 99th percentile.
        queue_mean_s: time in the queue.
        inter_token_mean_s: time between two tokens of an answer.
        prefill_tokens_per_s: tokens that one busy engine computes in a second of prefill.
        prefix_hit_ratio: hits in any cache / tokens requested (`Result.prefix_hit_ratio`).
        device_hit_ratio: hits in GPU caches / tokens requested.
        host_hit_ratio: hits in the engines' own DRAM / tokens requested.
        external_hit_ratio: hits in the tiers below the engines / tokens looked up there, which are those that
            the caches above did not have (`Result.node_hit_ratio`).
        external_load_bytes_per_s: bytes loaded from the tiers below / seconds of loading, for one engine.
        external_load_tokens_per_s: the same in tokens.
        gpu_cache_tokens: room for KV on the GPUs of one engine.
        warnings: what the source said about its answers, such as that they are partial.
    """

    at_s: float
    window_s: float
    instances: Reading = _NOT_ASKED
    requests_per_s: Reading = _NOT_ASKED
    prompt_tokens_per_s: Reading = _NOT_ASKED
    generation_tokens_per_s: Reading = _NOT_ASKED
    running: Reading = _NOT_ASKED
    waiting: Reading = _NOT_ASKED
    ttft_mean_s: Reading = _NOT_ASKED
    ttft_p50_s: Reading = _NOT_ASKED
    ttft_p99_s: Reading = _NOT_ASKED
    queue_mean_s: Reading = _NOT_ASKED
    inter_token_mean_s: Reading = _NOT_ASKED
    prefill_tokens_per_s: Reading = _NOT_ASKED
    prefix_hit_ratio: Reading = _NOT_ASKED
    device_hit_ratio: Reading = _NOT_ASKED
    host_hit_ratio: Reading = _NOT_ASKED
    external_hit_ratio: Reading = _NOT_ASKED
    external_load_bytes_per_s: Reading = _NOT_ASKED
    external_load_tokens_per_s: Reading = _NOT_ASKED
    gpu_cache_tokens: Reading = _NOT_ASKED
    warnings: tuple[str, ...] = ()

    def readings(self) -> Iterator[tuple[str, Reading]]:
        """Each reading with its name."""
        for name in READINGS:
            yield name, getattr(self, name)


READINGS: tuple[str, ...] = tuple(
    field.name for field in fields(EngineMetrics) if field.name not in ("at_s", "window_s", "warnings")
)
"""Names of all readings."""


def unavailable(at_s: float, window_s: float, why: str, warnings: tuple[str, ...] = ()) -> EngineMetrics:
    """Metrics of which nothing is known, all for the same reason."""
    missing: dict[str, Reading] = dict.fromkeys(READINGS, Missing(why))
    return EngineMetrics(at_s=at_s, window_s=window_s, warnings=warnings, **missing)
