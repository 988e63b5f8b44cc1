"""What keeps a cache's pods from being made or run: asked for by name and by Events while one is missing."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import ApiError, NotFoundError
from kvtide_operator.decide.steps import SetSpec
from kvtide_operator.observe.troubles import event_trouble
from kvtide_operator.world.cluster import CacheWorld, PodState
from kvtide_operator.world.kinds import CLAIM, EVENT, POD, SSD_CLAIM, CacheKey, Kind, Raw
from kvtide_operator.world.owner import not_ours, owned_by

REREAD_S: Final = 10.0
"""Between two looks at the Events of the same object."""
LASTS_S: Final = 10.0
"""Something that is in a pod's way for less is told in the status, but not as an Event."""
_SAME: Final = {"ErrImagePull": "ImagePullBackOff"}
"""What the kubelet says in turns of the same trouble."""


@dataclass(slots=True)
class _Told:
    since_s: float
    sentence: str


class Troubles:
    """Of one cache.

    Attributes:
        blocked: a sentence on each pod or claim that cannot be made.
    """

    def __init__(self, api: KubernetesApi, key: CacheKey) -> None:
        self._api = api
        self._key = key
        self._events: dict[str, tuple[float, list[Raw]]] = {}
        self._told: dict[tuple[str, str], _Told] = {}
        self.blocked: tuple[str, ...] = ()

    async def of(self, world: CacheWorld, uid: str) -> Mapping[str, str]:
        """Why pods do not run or are not there, by their names, as far as that is said."""
        found: dict[str, str] = {}
        blocked = []
        stateful_set = world.stateful_set
        there = {pod.name for pod in world.pods}
        for pod in (pod for pod in world.pods if not pod.deleting):
            if (said := pod.trouble or await self._on_its_way(pod)) is not None:
                found[pod.name] = said
        if stateful_set is not None and not stateful_set.deleting:
            names = [f"{self._key.name}-{ordinal}" for ordinal in range(stateful_set.replicas)]
            for name in (name for name in names if name not in there):
                said = await self._missing(name, stateful_set.uid, uid)
                if said is not None:
                    found[name] = said
                    blocked.append(f"{name}: {said}")
        self.blocked = tuple(blocked)
        return found

    async def permitted(
        self, wanted: SetSpec, world: CacheWorld, uid: str
    ) -> tuple[SetSpec | None, list[str]]:
        """What of a StatefulSet may be applied, so that it neither takes over nor mounts what is another's.

        Raises:
            ApiError: that cannot be looked at.
        """
        now = world.stateful_set.replicas if world.stateful_set is not None else 0
        owners = {uid, *(pod.uid for pod in world.pods)}
        if world.stateful_set is not None:
            owners.add(world.stateful_set.uid)
        names = {pod.ordinal: pod.name for pod in world.pods}
        claims = {claim.ordinal: claim.name for claim in world.claims}
        foreign = []
        for ordinal in range(now, wanted.replicas):
            own = f"{self._key.name}-{ordinal}"
            if ordinal not in names:
                foreign.append(await self._foreign(POD, own, owners, uid))
            if wanted.claim_bytes is not None and ordinal not in claims:
                foreign.append(await self._foreign(CLAIM, f"{SSD_CLAIM}-{own}", owners, uid))
        said = [sentence for sentence in foreign if sentence is not None]
        if not said:
            return wanted, []
        return (replace(wanted, replicas=now) if now else None), said

    def lasting(self, found: Mapping[str, str]) -> list[str]:
        """The sentences to make Events of: of each trouble the first, however its figures change."""
        now_s = time.monotonic()
        words = {name: (name, _word(said)) for name, said in found.items()}
        self._told = {
            words[name]: self._told.get(words[name]) or _Told(now_s, f"{name}: {said}")
            for name, said in found.items()
        }
        return [told.sentence for told in self._told.values() if now_s - told.since_s >= LASTS_S]

    async def _on_its_way(self, pod: PodState) -> str | None:
        if pod.memory_bytes is not None or pod.unreadable:
            return None
        try:
            return event_trouble(await self._of(pod.uid))
        except ApiError as error:
            return f"it is starting; what is in its way cannot be read: {error}"

    async def _missing(self, name: str, set_uid: str, uid: str) -> str | None:
        try:
            foreign = await self._foreign(POD, name, {set_uid, uid}, uid)
            return foreign or event_trouble(await self._of(set_uid), pod=name)
        except ApiError as error:
            return f"what is in its way cannot be read: {error}"

    async def _foreign(self, kind: Kind, name: str, owners: set[str], uid: str) -> str | None:
        try:
            there = await self._api.get(kind, self._key.namespace, name)
        except NotFoundError:
            return None
        return None if owned_by(there, owners) else not_ours({"kind": kind.kind, **there}, uid)

    async def _of(self, uid: str) -> list[Raw]:
        """The Events of an object, read again from time to time."""
        now_s = time.monotonic()
        self._events = {of: known for of, known in self._events.items() if now_s - known[0] < REREAD_S}
        if uid not in self._events:
            events, _ = await self._api.list(
                EVENT, self._key.namespace, field_selector=f"involvedObject.uid={uid},type=Warning"
            )
            self._events[uid] = (now_s, list(events))
        return self._events[uid][1]


def _word(sentence: str) -> str:
    word = sentence.partition(":")[0]
    return _SAME.get(word, word)
