"""Executes what a pass decided: children and steps, independent of each other, with a sentence on each."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from kvtide_cachenode.contract.client import NodeClient, NodeError, NodeRefused
from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from kvtide_operator.api.moment import format_time
from kvtide_operator.api.quantity import format_cpu, format_quantity
from kvtide_operator.decide.steps import (
    DeleteClaim,
    DeletePod,
    ExpandClaim,
    RecreateSet,
    ResizePod,
    Step,
    TellNode,
)
from kvtide_operator.world.kinds import (
    CLAIM,
    GROWN_AT,
    NODE_CONTAINER,
    POD,
    STATEFUL_SET,
    CacheKey,
    Kind,
    Raw,
    kind_of,
)
from kvtide_operator.world.owner import controlled_by, not_ours, owner_reference

MAX_CONCURRENT: Final = 32
"""Steps of all caches under way at once; more wait for their turn."""


class Ending(StrEnum):
    """How a step ended."""

    DONE = "Done"
    UNCHANGED = "Unchanged"  # it was so already
    STALE = "Stale"  # the object is another one by now: the next pass looks at it anew
    FOREIGN = "Foreign"  # somebody else's object is under that name
    REFUSED = "Refused"  # a rule, a right or a quota is against it; trying again changes nothing
    FAILED = "Failed"  # for now


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step or one child, how it ended, and a sentence on that."""

    what: Step | str
    ending: Ending
    sentence: str


class Executor:
    """Acts on Kubernetes and on the nodes.

    Args:
        api: with the leader's gate.
        live: a child as it was last seen, None when it is not there.
        seen: told of every object that was written, as it is now.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        live: Callable[[Kind, str, str], Raw | None],
        seen: Callable[[Kind, Mapping[str, Any]], object],
    ) -> None:
        self._api = api
        self._live = live
        self._seen = seen
        self._turn = asyncio.Semaphore(MAX_CONCURRENT)

    async def apply(self, uid: str, manifests: Sequence[Raw]) -> tuple[Outcome, ...]:
        """Bring the children of the cache with this uid to their manifests, where they are not so already.

        What is there under one of their names and is not the cache's is left as it is.

        Raises:
            NotLeaderError: this process does not lead any more. What was under way has ended.
        """
        return await self._all([(_said(m), self._apply(uid, m)) for m in manifests])

    async def take(
        self, key: CacheKey, uid: str, steps: Sequence[Step], nodes: Mapping[str, NodeClient]
    ) -> tuple[Outcome, ...]:
        """Take the steps, each to its end; one that fails does not stop another.

        Args:
            key: the cache whose steps these are.
            uid: its uid.
            steps: what to do.
            nodes: a client by the name of each pod that has an address.

        Raises:
            NotLeaderError: this process does not lead any more. What was under way has ended.
        """
        return await self._all([(step, self._take(key, uid, step, nodes)) for step in steps])

    async def _all(self, work: Sequence[tuple[Step | str, Awaitable[Outcome]]]) -> tuple[Outcome, ...]:
        done = await asyncio.gather(*(self._one(what, act) for what, act in work), return_exceptions=True)
        outcomes = []
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
        return tuple(outcomes)

    async def _one(self, what: Step | str, act: Awaitable[Outcome]) -> Outcome:
        async with self._turn:
            try:
                return await act
            except (ApiError, NodeError) as error:
                return Outcome(what, _ending_of(error), str(error))

    async def _apply(self, uid: str, manifest: Raw) -> Outcome:
        kind, metadata = kind_of(manifest), manifest["metadata"]
        live = self._live(kind, metadata["namespace"], metadata["name"])
        if live is not None and "deletionTimestamp" in live["metadata"]:
            # What is applied to it now would go with it, and look as if it had been done.
            return Outcome(_said(manifest), Ending.STALE, f"{_said(manifest)} is being deleted")
        if live is None:
            return await self._create(uid, manifest)
        if not controlled_by(live, uid):
            return Outcome(_said(manifest), Ending.FOREIGN, not_ours(live, uid))
        now = await self._api.apply_if_changed(manifest, live)
        if now is None:
            return Outcome(_said(manifest), Ending.UNCHANGED, f"{_said(manifest)} is as it shall be")
        self._seen(kind, now)
        return Outcome(_said(manifest), Ending.DONE, f"changed {_said(manifest)}")

    async def _create(self, uid: str, manifest: Raw) -> Outcome:
        """Make a child that was not seen; where one is there all the same, say whose it is."""
        kind, metadata = kind_of(manifest), manifest["metadata"]
        try:
            self._seen(kind, await self._api.create(manifest))
        except NotFoundError as error:  # the namespace, or the kind: nothing that the next pass sees anew
            return Outcome(_said(manifest), Ending.FAILED, str(error))
        except ConflictError:
            there = await self._api.get(kind, metadata["namespace"], metadata["name"])
            if not controlled_by(there, uid):
                return Outcome(_said(manifest), Ending.FOREIGN, not_ours(there, uid))
            self._seen(kind, there)
            return Outcome(_said(manifest), Ending.STALE, f"{_said(manifest)} was there already")
        return Outcome(_said(manifest), Ending.DONE, f"created {_said(manifest)}")

    async def _take(self, key: CacheKey, uid: str, step: Step, nodes: Mapping[str, NodeClient]) -> Outcome:
        match step:
            case RecreateSet():
                sentence = await self._recreate(key, uid, step)
            case ResizePod():
                sentence = await self._resize(key, step)
            case ExpandClaim():
                sentence = await self._expand(key, step)
            case DeleteClaim():
                sentence = await self._delete(CLAIM, key, step.claim, step.uid)
            case DeletePod():
                sentence = await self._delete(POD, key, step.pod, step.uid) + f": {step.reason}"
            case TellNode():
                node = nodes.get(step.pod)
                if node is None:
                    return Outcome(step, Ending.FAILED, f"pod {step.pod} has no address yet")
                sentence = await _told(node, step)
        return Outcome(step, Ending.DONE, sentence)

    async def _recreate(self, key: CacheKey, uid: str, step: RecreateSet) -> str:
        handed = {"metadata": {"ownerReferences": [owner_reference(key.name, uid, controller=False)]}}
        for kind, names in ((POD, step.pods), (CLAIM, step.claims)):
            for name in names:
                with suppress(NotFoundError):
                    self._seen(kind, await self._api.patch_by_key(kind, key.namespace, name, handed))
        await self._api.delete(STATEFUL_SET, key.namespace, key.name, uid=step.uid, orphan=True)
        return f"deleted StatefulSet {key.name} to make it anew; its pods go on"

    async def _resize(self, key: CacheKey, step: ResizePod) -> str:
        memory = {"memory": format_quantity(step.memory_bytes)}
        requests = memory if step.cpu is None else {**memory, "cpu": format_cpu(step.cpu)}
        patch = {
            "metadata": {"resourceVersion": step.resource_version},
            "spec": {
                "containers": [
                    {"name": NODE_CONTAINER, "resources": {"requests": requests, "limits": memory}}
                ]
            },
        }
        pod = await self._api.patch_by_key(POD, key.namespace, step.pod, patch, subresource="resize")
        self._seen(POD, pod)
        return f"asked for {memory['memory']} of memory for pod {step.pod}"

    async def _expand(self, key: CacheKey, step: ExpandClaim) -> str:
        size = format_quantity(step.bytes)
        patch = {
            "metadata": {
                "resourceVersion": step.resource_version,
                "annotations": {GROWN_AT: format_time(time.time())},
            },
            "spec": {"resources": {"requests": {"storage": size}}},
        }
        claim = await self._api.patch(CLAIM, key.namespace, step.claim, patch)
        self._seen(CLAIM, claim)
        return f"asked for {size} for claim {step.claim}"

    async def _delete(self, kind: Kind, key: CacheKey, name: str, uid: str) -> str:
        try:
            await self._api.delete(kind, key.namespace, name, uid=uid)
        except NotFoundError:
            return f"{kind.kind} {name} was gone already"
        return f"deleted {kind.kind} {name}"


async def _told(node: NodeClient, step: TellNode) -> str:
    await node.set_desired(step.document)
    return f"told the node in {step.pod} generation {step.document.generation}"


def _ending_of(error: ApiError | NodeError) -> Ending:
    if isinstance(error, ConflictError | NotFoundError):
        return Ending.STALE
    if isinstance(error, ForbiddenError | InvalidError | NodeRefused):
        return Ending.REFUSED
    return Ending.FAILED


def _said(manifest: Raw) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"
