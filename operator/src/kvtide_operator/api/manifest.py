"""Reads manifests from YAML: a TieredCache and the TierClasses it names, in one file or several documents."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from kvtide_operator.api.base import API_VERSION
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache

_KINDS: dict[str, type[TieredCache] | type[TierClass]] = {"TieredCache": TieredCache, "TierClass": TierClass}


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the file, the place and the cure."""


@dataclass(frozen=True)
class Manifest:
    """One cache and the classes its tiers name.

    Attributes:
        path: files that it names are looked for beside this one.
        keys: those of the Secret that ``history.secretRef`` names.
        in_containers: what containers need beyond their tier is paid for, too.
    """

    path: Path
    cache: TieredCache
    classes: dict[str, TierClass]
    keys: Mapping[str, str] | None = field(default=None, repr=False)
    in_containers: bool = False


def load_manifest(path: Path) -> Manifest:
    """Read one TieredCache and its TierClasses from a YAML file.

    Raises:
        ManifestError: the file is missing, not YAML, or says something that cannot be.
    """
    caches: list[TieredCache] = []
    classes: dict[str, TierClass] = {}
    for model in _models_in(path):
        if isinstance(model, TieredCache):
            caches.append(model)
        else:
            classes[model.metadata.name] = model
    if len(caches) != 1:
        raise ManifestError(f"{path}: found {len(caches)} TieredCache documents; exactly one is needed")
    manifest = linked(path, caches[0], classes)
    currencies = {name: known.spec.price.currency for name, known in manifest.classes.items()}
    if len(set(currencies.values())) > 1:
        said = ", ".join(f"{name} in {currency}" for name, currency in sorted(currencies.items()))
        raise ManifestError(f"{path}: TierClasses are priced {said}; give all prices in one currency")
    return manifest


def linked(
    path: Path, cache: TieredCache, classes: dict[str, TierClass], there: Collection[str] | None = None
) -> Manifest:
    """A cache with the classes that its tiers name; ``there`` are the names that it could name.

    Raises:
        ManifestError: a class is missing or of another medium.
    """
    for tier in cache.spec.tiers:
        for name in tier.classes:
            if name not in classes:
                others = ", ".join(sorted(there or classes)) or "none"
                raise ManifestError(
                    f"{path}: tier {tier.name!r} names class {name!r}, which is not there; "
                    f"add a TierClass of that name (there are: {others})"
                )
            if classes[name].spec.medium != tier.medium:
                raise ManifestError(
                    f"{path}: tier {tier.name!r} is {tier.medium} but its class {name!r} is "
                    f"{classes[name].spec.medium}; name a class of the same medium"
                )
    return Manifest(path, cache, classes)


def _models_in(path: Path) -> list[TieredCache | TierClass]:
    try:
        documents = list(yaml.safe_load_all(path.read_text("utf-8")))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ManifestError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    return [_model_of(document, path) for document in documents if document is not None]


def _model_of(document: object, path: Path) -> TieredCache | TierClass:
    if not isinstance(document, dict):
        raise ManifestError(f"{path}: a manifest is a mapping with apiVersion and kind, not {document!r:.60}")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS or document.get("apiVersion") != API_VERSION:
        raise ManifestError(
            f"{path}: apiVersion {document.get('apiVersion')!r} kind {kind!r} is not kvtide's; "
            f"known are {', '.join(_KINDS)} of {API_VERSION}"
        )
    try:
        return _KINDS[kind].model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or kind
        reason = first["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestError(f"{path}: {kind} {place}: {reason}{more}") from None
