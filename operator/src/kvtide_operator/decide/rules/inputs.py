"""Nothing moves while something is not known: no data is not zero."""

from collections.abc import Callable, Sequence

from kvtide_operator.decide.situation import Situation
from kvtide_operator.world.metrics import EngineMetrics, Missing, Reading, Stale, Value, known

ESSENTIAL = ("instances", "requests_per_s", "running", "waiting", "ttft_mean_s")
"""Without these the engines are not known to run, or a move's effect could not be seen."""

Obstacle = Callable[[Situation], str | None]
"""A sentence on why the whole cache stays as it is, or None."""


def manual(situation: Situation) -> str | None:
    """The user moves the cache."""
    return "mode is Manual" if situation.spec.scaling.mode == "Manual" else None


def silent_nodes(situation: Situation) -> str | None:
    """A node whose size is unknown makes the whole cache's size unknown."""
    if not situation.silent:
        return None
    return f"keeps all sizes while a node is silent ({'; '.join(situation.silent)})"


def unknown_metrics(situation: Situation) -> str | None:
    """Declared metrics must be there and current."""
    if situation.spec.metrics is None:
        return None
    if situation.metrics is None:
        return "keeps all sizes: the engines' metrics were not read"
    return _first_unknown(situation.metrics, situation.now_s)


def no_plan(situation: Situation) -> str | None:
    """There was nothing to plan for, or whatever there was could not be."""
    if situation.unplannable is not None:
        return situation.unplannable
    if situation.plan is None and not situation.idle:
        return "has seen no requests within the window that it could plan for"
    return None


def unseen_requests(situation: Situation) -> str | None:
    """Engines that serve what no node was told of: then no requests in the trace are not none."""
    rate = known(situation.metrics.requests_per_s) if situation.metrics else None
    if not situation.idle or not rate:
        return None
    return (
        f"keeps all sizes: the engines serve {rate:.3g} requests a second, and none reach the nodes' traces"
    )


OBSTACLES: Sequence[Obstacle] = (manual, silent_nodes, unknown_metrics, no_plan, unseen_requests)


def _first_unknown(metrics: EngineMetrics, now_s: float) -> str | None:
    idle = known(metrics.requests_per_s) == 0  # then there is no latency to be known
    for name in ESSENTIAL:
        if idle and name == "ttft_mean_s":
            continue
        reading: Reading = getattr(metrics, name)
        match reading:
            case Value():
                continue
            case Stale(since_s, last):
                return f"keeps all sizes: {name} is {now_s - since_s:.0f} s old (it was {last:.4g})"
            case Missing(why):
                return f"keeps all sizes: {name} is not known ({why})"
    return None
