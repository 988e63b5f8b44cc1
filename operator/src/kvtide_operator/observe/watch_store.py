"""What the watches and lists have said so far: every object of our kinds, by cache."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kvtide_operator.observe.cluster import UnreadableError, claim_state, pod_state, set_state
from kvtide_operator.world.cluster import CacheWorld
from kvtide_operator.world.kinds import (
    CACHE_LABEL,
    CLAIM,
    POD,
    SSD_CLAIM,
    STATEFUL_SET,
    STORAGE_CLASS,
    TIER_CLASS,
    TIERED_CACHE,
    CacheKey,
    Kind,
    Raw,
)
from kvtide_operator.world.owner import controlled_by, owned_by

_Name = tuple[str, str]
# Nothing is applied to these by us, and the list of their managers is a third of their size.
_UNMANAGED: Final = (POD, CLAIM)


@dataclass
class _Objects:
    """The objects of one kind; ``gone`` holds deletions since the last list: name → version.

    ``of`` names those that carry the label of a cache.
    """

    live: dict[_Name, dict[str, Any]] = field(default_factory=dict)
    gone: dict[_Name, int] = field(default_factory=dict)
    of: dict[CacheKey, set[_Name]] = field(default_factory=lambda: defaultdict(set))
    listed: bool = False
    heard_s: float = 0.0
    missed: int = 0


class ObjectStore:
    """Fed by events, which are quick, and by lists, which find what events have missed.

    Newer versions win whatever order they come in; from Kubernetes 1.35 on versions may be compared as
    numbers, and with etcd behind the API server always could.

    ``wake`` is called with the key of every cache that a change concerns.
    """

    def __init__(self, kinds: Iterable[Kind], wake: Callable[[CacheKey], None]) -> None:
        self._objects = {kind: _Objects() for kind in kinds}
        self._wake = wake

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What it holds."""
        return tuple(self._objects)

    @property
    def synced(self) -> bool:
        """Whether every kind has been listed once: before that, what is not here may yet exist."""
        return all(objects.listed for objects in self._objects.values())

    def put(self, kind: Kind, raw: Mapping[str, Any]) -> bool:
        """Take an object as it is now; False when this or a newer version is known."""
        objects = self._objects[kind]
        objects.heard_s = time.monotonic()
        name, version = _name(raw), _version(raw)
        known = objects.live.get(name)
        if (known is not None and _version(known) >= version) or objects.gone.get(name, -1) >= version:
            return False
        _remove(objects, name)
        objects.live[name] = _trimmed(kind, raw)
        if (labelled := _labelled(raw)) is not None:
            objects.of[labelled].add(name)
        objects.gone.pop(name, None)
        self._tell(kind, raw)
        return True

    def drop(self, kind: Kind, raw: Mapping[str, Any]) -> None:
        """Forget an object that was deleted; ``raw`` is its last version."""
        objects = self._objects[kind]
        objects.heard_s = time.monotonic()
        name, version = _name(raw), _version(raw)
        known = objects.live.get(name)
        objects.gone[name] = max(version, objects.gone.get(name, -1))
        if known is not None and _version(known) <= version:
            _remove(objects, name)
            self._tell(kind, raw)

    def replace(
        self, kind: Kind, items: Iterable[Mapping[str, Any]], version: str, namespace: str = ""
    ) -> None:
        """Take a list that holds at ``version``, of one namespace or of all.

        What it lacks is forgotten, unless it was heard of after the list was made.
        """
        objects = self._objects[kind]
        first = not objects.listed
        listed: set[_Name] = set()
        for item in items:
            listed.add(_name(item))
            if self.put(kind, item) and not first:
                objects.missed += 1
        for name, known in list(objects.live.items()):
            in_scope = not namespace or name[0] == namespace
            if in_scope and name not in listed and _version(known) <= int(version):
                _remove(objects, name)
                objects.missed += 0 if first else 1
                self._tell(kind, known)
        objects.gone = {name: at for name, at in objects.gone.items() if at > int(version)}
        objects.heard_s = time.monotonic()

    def mark_listed(self, kind: Kind) -> None:
        """Every namespace that is served has been listed."""
        self._objects[kind].listed = True

    def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """One object; cluster-scoped ones have the namespace ``""``. Not to be changed."""
        return self._objects[kind].live.get((namespace, name))

    def every(self, kind: Kind) -> list[Raw]:
        """All objects of a kind, none of a kind that it does not hold. Not to be changed."""
        return list(self._objects[kind].live.values()) if kind in self._objects else []

    def caches(self) -> list[CacheKey]:
        """Every TieredCache there is."""
        return [CacheKey(*name) for name in self._objects[TIERED_CACHE].live]

    def children(self, kind: Kind, key: CacheKey) -> list[Raw]:
        """The objects of a kind that carry the label of a cache."""
        objects = self._objects[kind]
        return [objects.live[name] for name in sorted(objects.of.get(key, ()))]

    def world(self, key: CacheKey, uid: str, at_s: float) -> CacheWorld:
        """What belongs to the cache with this uid, as Kubernetes says; its nodes have not been asked yet.

        Pods and claims are the StatefulSet's, or those that a set which is made anew has handed to the cache.
        """
        stateful_set = self.get(STATEFUL_SET, key.namespace, key.name)
        if stateful_set is not None and not controlled_by(stateful_set, uid):
            stateful_set = None
        owners = {uid} if stateful_set is None else {uid, stateful_set["metadata"]["uid"]}
        pods = [raw for raw in self._numbered(POD, key, key.name) if owned_by(raw, owners)]
        # A claim that goes when its pod goes belongs to the pod.
        owners |= {pod["metadata"]["uid"] for pod in pods}
        claims = [
            raw for raw in self._numbered(CLAIM, key, f"{SSD_CLAIM}-{key.name}") if owned_by(raw, owners)
        ]
        classes = {raw["metadata"]["name"]: raw for raw in self.every(STORAGE_CLASS)}
        known, problems = [], []
        for raw in claims:
            try:
                known.append(claim_state(raw, classes))
            except UnreadableError as error:
                problems.append(str(error))
        states = sorted(map(pod_state, pods), key=lambda pod: pod.ordinal)
        return CacheWorld(
            at_s=at_s,
            stateful_set=None if stateful_set is None else set_state(stateful_set),
            pods=tuple(states),
            claims=tuple(sorted(known, key=lambda claim: claim.ordinal)),
            unreadable=(*(pod.unreadable for pod in states if pod.unreadable), *problems),
        )

    def silence_s(self, kind: Kind) -> float:
        """Seconds since anything was heard of a kind, by an event or by a list."""
        return time.monotonic() - self._objects[kind].heard_s

    def missed(self, kind: Kind) -> int:
        """Changes that a list found before any event told of them."""
        return self._objects[kind].missed

    def count(self, kind: Kind) -> int:
        """How many objects of a kind there are."""
        return len(self._objects[kind].live)

    def _numbered(self, kind: Kind, key: CacheKey, stem: str) -> list[Raw]:
        """Children named ``STEM-NUMBER``; somebody's own pod with our label is none of the set."""
        found = []
        for raw in self.children(kind, key):
            head, dash, number = raw["metadata"]["name"].rpartition("-")
            if dash and head == stem and number.isascii() and number.isdigit():
                found.append(raw)
        return found

    def _tell(self, kind: Kind, raw: Raw) -> None:
        for key in self._concerned(kind, raw):
            self._wake(key)

    def _concerned(self, kind: Kind, raw: Raw) -> list[CacheKey]:
        metadata = raw["metadata"]
        namespace = metadata.get("namespace", "")
        if kind == TIERED_CACHE:
            return [CacheKey(namespace, metadata["name"])]
        if kind == TIER_CLASS:
            return [key for key in self.caches() if self._names_class(key, metadata["name"])]
        cache = metadata.get("labels", {}).get(CACHE_LABEL) or _owner(metadata)
        return [CacheKey(namespace, cache)] if cache else []

    def _names_class(self, key: CacheKey, name: str) -> bool:
        raw = self.get(TIERED_CACHE, *key) or {}
        return any(name in tier.get("classes", ()) for tier in raw.get("spec", {}).get("tiers", ()))


def _remove(objects: _Objects, name: _Name) -> None:
    known = objects.live.pop(name, None)
    labelled = None if known is None else _labelled(known)
    if labelled is not None:
        objects.of[labelled].discard(name)
        if not objects.of[labelled]:
            del objects.of[labelled]


def _labelled(raw: Raw) -> CacheKey | None:
    metadata = raw["metadata"]
    cache = metadata.get("labels", {}).get(CACHE_LABEL)
    return CacheKey(metadata.get("namespace", ""), cache) if cache else None


def _owner(metadata: Raw) -> str | None:
    owners = metadata.get("ownerReferences", ())
    return next((owner["name"] for owner in owners if owner["kind"] == TIERED_CACHE.kind), None)


def _name(raw: Raw) -> _Name:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _version(raw: Raw) -> int:
    return int(raw["metadata"]["resourceVersion"])


def _trimmed(kind: Kind, raw: Raw) -> dict[str, Any]:
    if kind not in _UNMANAGED:
        return dict(raw)
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return {**raw, "metadata": metadata}
