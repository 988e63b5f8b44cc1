"""What a kind of engine calls its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvtide_operator.observe.prometheus.promql import Series

Expressions = Mapping[str, str]
"""PromQL by the reading of `EngineMetrics` it fills: one series without labels each."""


@dataclass(frozen=True, slots=True)
class EngineQueries:
    """A kind of engine.

    Attributes:
        heartbeat: a gauge that every engine exposes while it runs: its newest sample dates all others.
        expressions: the readings it can fill.
        cache_blocks: series with the labels ``num_gpu_blocks`` and ``block_size``, whose value is the number
            of engines that have them; None where the engine has no such labels.
    """

    heartbeat: str
    expressions: Callable[[Series], Expressions]
    cache_blocks: Callable[[Series], str] | None = None


def falling_back(*kinds: Expressions) -> Expressions:
    """Each reading from the first kind that has series for it."""
    names = {name for kind in kinds for name in kind}
    return {name: " or ".join(f"({kind[name]})" for kind in kinds if name in kind) for name in sorted(names)}
