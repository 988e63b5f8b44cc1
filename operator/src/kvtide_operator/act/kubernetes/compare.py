"""Whether applying a manifest would change a live object (pure): compare, then write.

The API server fills in defaults and others add fields of their own, so a live object is never equal to its
manifest. It has to be written when something that the manifest says is not so, or when something that we
applied earlier (``metadata.managedFields``) is not in the manifest any more.
"""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from kvtide_cachenode.contract.quantity import parse_amount
from kvtide_operator.world.kinds import Raw

# Lists whose items server-side apply merges by these fields (``x-kubernetes-list-map-keys`` of the built-in
# kinds); all other lists are one value.
_KEYS: Final[Mapping[str, Sequence[tuple[str, ...]]]] = {
    "containers": [("name",)],
    "initContainers": [("name",)],
    "env": [("name",)],
    "volumes": [("name",)],
    "volumeMounts": [("mountPath",)],
    "imagePullSecrets": [("name",)],
    "ownerReferences": [("uid",)],
    "conditions": [("type",)],
    "topologySpreadConstraints": [("topologyKey", "whenUnsatisfiable")],
    "ports": [("containerPort", "protocol"), ("port", "protocol")],
}
_KEY_DEFAULTS: Final = {"protocol": "TCP"}
_QUANTITIES: Final = frozenset({"limits", "requests", "capacity"})
# Of the object itself, which every manifest has and no manager owns.
_IDENTITY: Final = frozenset({"apiVersion", "kind"})


def differs(manifest: Raw, live: Raw, manager: str) -> bool:
    """Whether server-side apply of ``manifest`` by ``manager`` would change ``live``."""
    wanted = {name: value for name, value in manifest.items() if name not in _IDENTITY}
    return not _holds(wanted, live, ()) or _dropped(wanted, _owned(live, manager))


def _holds(wanted: Any, live: Any, path: tuple[str, ...]) -> bool:
    """Whether everything in ``wanted`` is so in ``live``."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            # An empty part of a manifest, such as ``emptyDir: {}``, may be stored as nothing.
            return live is None and not any(value is not None for value in wanted.values())
        return all(
            _holds(value, live.get(name), (*path, name))
            for name, value in wanted.items()
            if value is not None
        )
    if isinstance(wanted, list | tuple):
        return _list_holds(wanted, live, path)
    return bool(wanted == live) or _same_quantity(wanted, live, path)


def _list_holds(wanted: Sequence[Any], live: Any, path: tuple[str, ...]) -> bool:
    if not isinstance(live, list):
        return not wanted and live is None
    keys = _keys_of(path[-1], wanted)
    if keys is None:
        return len(wanted) == len(live) and all(
            _holds(mine, theirs, path) for mine, theirs in zip(wanted, live, strict=True)
        )
    by_key = {_key(item, keys): item for item in live}
    return all(_holds(item, by_key.get(_key(item, keys)), path) for item in wanted)


def _keys_of(field: str, items: Sequence[Any]) -> tuple[str, ...] | None:
    for keys in _KEYS.get(field, ()):
        if all(
            isinstance(item, Mapping) and all(k in item or k in _KEY_DEFAULTS for k in keys) for item in items
        ):
            return keys
    return None


def _key(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key, _KEY_DEFAULTS.get(key)) for key in keys)


def _same_quantity(wanted: Any, live: Any, path: tuple[str, ...]) -> bool:
    in_quantities = any(part in _QUANTITIES for part in path[-2:]) or path[-1:] == ("sizeLimit",)
    if not in_quantities or wanted is None or live is None:
        return False
    return _amount(wanted) == _amount(live)


def _amount(quantity: Any) -> Fraction | str:
    """As a number, so that ``0.5`` and ``500m`` of a CPU are the same."""
    text = str(quantity)
    try:
        return parse_amount(text)
    except ValueError:
        return text


def as_applied(live: Raw, manager: str) -> list[dict[str, Any]] | None:
    """The JSON patch by which what ``manager`` has created counts as applied; None where it does already.

    An object is created and not applied, so that it can never be laid over one that is there. What a creation
    has written is no later apply's to take away; the API server lets ``managedFields`` be rewritten for that.
    """
    entries = live["metadata"].get("managedFields", ())
    created = [at for at, entry in enumerate(entries) if _is_of(entry, manager, "Update")]
    if not created or any(_is_of(entry, manager, "Apply") for entry in entries):
        return None
    # Refused as a conflict by any other version, and so by a namesake.
    version = {
        "op": "replace",
        "path": "/metadata/resourceVersion",
        "value": live["metadata"]["resourceVersion"],
    }
    operation = f"/metadata/managedFields/{created[0]}/operation"
    return [version, {"op": "replace", "path": operation, "value": "Apply"}]


def _is_of(entry: Mapping[str, Any], manager: str, operation: str) -> bool:
    said = entry.get("manager"), entry.get("operation"), entry.get("subresource", "")
    return said == (manager, operation, "")


def _owned(live: Raw, manager: str) -> Mapping[str, Any]:
    """The tree of fields that ``manager`` has created or applied (FieldsV1), empty where it has not."""
    for operation in ("Apply", "Update"):
        for entry in live.get("metadata", {}).get("managedFields", ()):
            if _is_of(entry, manager, operation):
                fields: Mapping[str, Any] = entry.get("fieldsV1", {})
                return fields
    return {}


def _dropped(wanted: Any, owned: Mapping[str, Any]) -> bool:
    """Whether ``owned`` names a field or an item that ``wanted`` lacks."""
    return any(_lacks(wanted, step, below) for step, below in owned.items() if step != ".")


def _lacks(wanted: Any, step: str, below: Mapping[str, Any]) -> bool:
    how, _, what = step.partition(":")
    if how == "f":
        if not isinstance(wanted, Mapping) or wanted.get(what) is None:
            return True
        return _dropped(wanted[what], below)
    if not isinstance(wanted, list | tuple):
        return True
    if how == "v":
        return json.loads(what) not in wanted
    if how == "k":
        key = json.loads(what)
        for item in wanted:
            if isinstance(item, Mapping) and all(
                item.get(name, _KEY_DEFAULTS.get(name)) == value for name, value in key.items()
            ):
                return _dropped(item, below)
    return True
