"""Kubernetes Events: what people see in ``kubectl describe``, each said once and then counted.

A level-triggered loop finds the same thing at every pass. The same sentence about the same object is one
Event: made when first said, and after that written again every ``REPEAT_S`` at most, with a higher count.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import ApiError, ConflictError, NotFoundError, NotLeaderError
from kvtide_operator.world.kinds import EVENT, Raw

COMPONENT: Final = "kvtide-operator"
REPEAT_S: Final = 300.0
MAX_REMEMBERED: Final = 4096
"""The longest unsaid is forgotten; when said again, its Event is found by its name."""
MAX_MESSAGE_CHARS: Final = 1024
"""The API server refuses longer ones."""

log = logging.getLogger("kvtide_operator.events")


@dataclass(frozen=True, slots=True)
class _Sentence:
    """What is said: about whom, of which type (``Normal`` or ``Warning``), why and in which words."""

    about: Raw
    kind: str
    reason: str
    message: str

    @property
    def namespace(self) -> str:
        """Where the Event is kept; those about cluster-scoped objects are in ``default``."""
        return str(self.about["metadata"].get("namespace", "default"))

    @property
    def name(self) -> str:
        """The same for the same sentence, so that another process finds the Event."""
        metadata = self.about["metadata"]
        what = "\0".join((metadata["uid"], self.kind, self.reason, self.message))
        return f"{metadata['name'][:200]}.{hashlib.sha256(what.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class _Said:
    count: int
    written_s: float


class Events:
    """Writes Events about objects. Failing to is logged and otherwise of no consequence.

    ``instance`` says which operator speaks.
    """

    def __init__(self, api: KubernetesApi, instance: str, *, wall: Callable[[], float] = time.time) -> None:
        self._api = api
        self._instance = instance
        self._wall = wall
        self._said: OrderedDict[str, _Said] = OrderedDict()

    async def record(
        self, about: Raw, reason: str, message: str, *, kind: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        """Say something about an object.

        Args:
            about: the object, with ``apiVersion``, ``kind`` and ``metadata``.
            reason: one word in CamelCase, such as ``ResizeDeferred``.
            message: a sentence.
            kind: Warning for what a person should look at.
        """
        sentence = _Sentence(about, kind, reason, message[:MAX_MESSAGE_CHARS])
        said = self._said.pop(sentence.name, None)
        try:
            if said is None:
                said = await self._first(sentence)
            elif self._wall() - said.written_s >= REPEAT_S:
                said = await self._again(sentence, said.count + 1)
            else:
                said.count += 1
        except (ApiError, NotLeaderError) as error:
            log.warning("Could not write an Event", extra={"event": reason, "reason": str(error)})
            return
        self._said[sentence.name] = said
        if len(self._said) > MAX_REMEMBERED:
            self._said.popitem(last=False)

    async def _first(self, sentence: _Sentence) -> _Said:
        try:
            await self._api.create(self._manifest(sentence))
        except ConflictError:
            # Said before this process started, or before it was forgotten.
            known = await self._api.get(EVENT, sentence.namespace, sentence.name)
            return await self._again(sentence, int(known.get("count", 1)) + 1)
        return _Said(1, self._wall())

    async def _again(self, sentence: _Sentence, count: int) -> _Said:
        now_s = self._wall()
        change = {"count": count, "lastTimestamp": _text(now_s)}
        try:
            await self._api.patch(EVENT, sentence.namespace, sentence.name, change)
        except NotFoundError:
            # The API server forgets Events after an hour.
            await self._api.create(self._manifest(sentence))
            return _Said(1, now_s)
        return _Said(count, now_s)

    def _manifest(self, sentence: _Sentence) -> dict[str, Any]:
        about, metadata = sentence.about, sentence.about["metadata"]
        now = _text(self._wall())
        where = {"namespace": sentence.namespace} if "namespace" in metadata else {}
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": sentence.name, "namespace": sentence.namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                **where,
            },
            "type": sentence.kind,
            "reason": sentence.reason,
            "message": sentence.message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _text(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
