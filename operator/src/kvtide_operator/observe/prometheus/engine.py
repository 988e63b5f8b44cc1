"""What a kind of engine calls its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvtide_operator.observe.prometheus.promql import Series

Expressions = Mapping[str, str]
"""PromQL by the reading of `EngineMetrics` it fills."""


@dataclass(frozen=True, slots=True)
class EngineQueries:
    """A kind of engine.

    Attributes:
        heartbeat: a gauge that every engine exposes while it runs: its newest sample dates all others.
        expressions: the readings it can fill.
    """

    heartbeat: str
    expressions: Callable[[Series], Expressions]


def falling_back(*kinds: Expressions) -> Expressions:
    """Each reading from the first kind that has series for it."""
    names = {name for kind in kinds for name in kind}
    return {name: " or ".join(f"({kind[name]})" for kind in kinds if name in kind) for name in sorted(names)}
