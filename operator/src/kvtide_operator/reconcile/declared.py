"""What is declared of a cache: its spec and its classes, as far as a cluster can have them."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from kvtide_operator.api.engine import MeasuredProfile, TableProfile
from kvtide_operator.api.manifest import Manifest, ManifestError, linked
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import Target
from kvtide_operator.world.kinds import CLASSES, CacheKey, Raw

PROFILES: Final = Path("/etc/kvtide/profiles")
"""Where the operator's pod has the step times that caches may name."""
_KEY: Final = re.compile("[-_a-zA-Z0-9][-._a-zA-Z0-9]{0,252}")
"""What a key of a ConfigMap looks like; those that begin with a dot are Kubernetes' own."""


def manifest_of(
    key: CacheKey, cache: TieredCache, classes: Iterable[Raw], known: dict[str, TierClass]
) -> tuple[Manifest, str | None]:
    """A cache with its classes, and a sentence on those that are gone, of which what was known holds.

    ``known`` are the classes of the pass before; it is brought up to date.

    Raises:
        ManifestError: a class is not there or cannot be used.
    """
    by_name = {raw["metadata"]["name"]: raw for raw in classes}
    named = {name for tier in cache.spec.tiers for name in tier.classes}
    for name in known.keys() - named:
        del known[name]
    try:
        known.update((name, TierClass.model_validate(by_name[name])) for name in named & by_name.keys())
    except ValidationError as error:
        raise ManifestError(f"a TierClass cannot be used: {sentence_of(error)}") from None
    manifest = _tellable(linked(Path(str(key)), cache, dict(known), by_name))
    gone = ", ".join(sorted(known.keys() - by_name.keys()))
    missing = f"TierClass {gone} is gone: sizes are kept, and nothing is planned until it is back"
    return replace(manifest, path=PROFILES / key.name, in_containers=True), missing if gone else None


def remembered_classes(stateful_set: Raw | None) -> dict[str, TierClass]:
    """The classes that the StatefulSet was last made for: what is known of those that are gone at a start."""
    said = (stateful_set or {}).get("metadata", {}).get("annotations", {}).get(CLASSES, "{}")
    try:
        return {
            name: TierClass.model_validate({"metadata": {"name": name}, "spec": spec})
            for name, spec in json.loads(said).items()
        }
    except (ValueError, AttributeError):
        return {}  # by another operator: then a class that is gone is not known


def first_class(cache: TieredCache) -> str | None:
    """The class that the SSD starts with, None without one."""
    return cache.spec.ssd.classes[0] if cache.spec.ssd else None


def within(target: Target, cache: TieredCache) -> Target:
    """A target within the bounds of the spec."""
    dram, ssd = cache.spec.dram.capacity, cache.spec.ssd
    dram_bytes = min(max(target.dram_bytes, dram.min), dram.max)
    if ssd is None:
        return Target(dram_bytes)
    ssd_bytes = min(max(target.ssd_bytes, ssd.capacity.min), ssd.capacity.max)
    ttl_s = target.ttl_s
    if ttl_s is not None:
        ttl_s = min(max(ttl_s, ssd.ttl.min), ssd.ttl.max)
    return Target(dram_bytes, ssd_bytes, ttl_s, target.groups if ssd_bytes else None)


def sentence_of(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def forbidden_file(cache: TieredCache) -> str | None:
    """Why a cache may not name the file that it names: only those that are there to be named."""
    profile = cache.spec.engine.profile
    base = profile.base if isinstance(profile, MeasuredProfile) else profile
    if not isinstance(base, TableProfile) or _KEY.fullmatch(base.file):
        return None
    return (
        f"engine profile {base.file[:80]!r}: on a cluster give the name of a file in the ConfigMap that "
        "engineProfiles.configMap of the chart names"
    )


def _tellable(manifest: Manifest) -> Manifest:
    """Only the first SSD class, unless all name their StorageClass: of which class is a volume otherwise?"""
    spec = manifest.cache.spec
    if spec.ssd is None or all(manifest.classes[name].spec.storage_class_name for name in spec.ssd.classes):
        return manifest
    ssd = spec.ssd.model_copy(update={"classes": spec.ssd.classes[:1]})
    cache = manifest.cache.model_copy(update={"spec": spec.model_copy(update={"tiers": (spec.dram, ssd)})})
    return replace(manifest, cache=cache)
