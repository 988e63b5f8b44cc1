"""What of a manifest a plan is made for, and what engines tell in its place."""

from dataclasses import replace
from typing import Any

from kvtide_operator.api.engine import MeasuredProfile
from kvtide_operator.api.manifest import Manifest
from kvtide_operator.simulate.engine.pace import Pace, pace_of
from kvtide_operator.world.metrics import EngineMetrics, known


def pace_for(manifest: Manifest, metrics: EngineMetrics | None) -> Pace | str | None:
    """The engines' pace, or why it is not known; None where the manifest does not ask for it."""
    if not isinstance(manifest.cache.spec.engine.profile, MeasuredProfile):
        return None
    return pace_of(metrics)


def declared_of(manifest: Manifest) -> tuple[Any, ...]:
    """What a plan depends on: not the status, which every plan changes."""
    return manifest.cache.spec, {name: known.spec for name, known in manifest.classes.items()}


def with_instances(manifest: Manifest, metrics: EngineMetrics | None) -> Manifest:
    """The manifest with as many engines as report, where it does not say how many."""
    observed = known(metrics.instances) if metrics else None
    engine = manifest.cache.spec.engine
    if observed is None or observed < 1 or engine.instances is not None:
        return manifest
    engine = engine.model_copy(update={"instances": round(observed)})
    spec = manifest.cache.spec.model_copy(update={"engine": engine})
    cache = manifest.cache.model_copy(update={"spec": spec})
    return replace(manifest, cache=cache)
