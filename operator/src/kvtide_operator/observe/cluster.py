"""Reads pods, claims and StatefulSets: what the API server says → what decide looks at (pure)."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from kvtide_operator.api.quantity import parse_cpu, parse_quantity
from kvtide_operator.observe.troubles import pod_trouble
from kvtide_operator.world.cluster import ClaimState, PodResize, PodState, ResizeReason, SetState
from kvtide_operator.world.kinds import GROWN_AT, NODE_CONTAINER, SSD_CLAIM, TEMPLATE_HASH, Raw

# Growing failed, for now or for good; the kubelet and the resizer try again by themselves.
_CLAIM_PROBLEMS: Final = ("ControllerResizeError", "NodeResizeError")
# What reading an object that somebody has written by hand may raise.
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError)
_INFEASIBLE: Final = ("ControllerResizeInfeasible", "NodeResizeInfeasible")


def pod_state(pod: Raw) -> PodState:
    """A pod of a cache's StatefulSet; one that cannot be read says so, for it may hold entries."""
    try:
        return _pod_state(pod)
    except _UNREADABLE as error:
        metadata = pod["metadata"]
        return PodState(
            name=metadata["name"],
            ordinal=ordinal_of(metadata["name"]),
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            ip=None,
            ready=False,
            deleting="deletionTimestamp" in metadata,
            template_hash="",
            restarts=0,
            wanted_memory_bytes=0,
            memory_bytes=None,
            unreadable=unreadable(pod, error),
        )


def unreadable(raw: Raw, error: Exception) -> str:
    """A sentence on an object that says what is not understood."""
    return f"{raw.get('kind', 'object')} {raw['metadata']['name']} cannot be read: {error}"


def _pod_state(pod: Raw) -> PodState:
    metadata, status = pod["metadata"], pod.get("status", {})
    wanted = _named(pod["spec"].get("containers", ()), NODE_CONTAINER)
    actual = _named(status.get("containerStatuses", ()), NODE_CONTAINER)
    return PodState(
        name=metadata["name"],
        ordinal=ordinal_of(metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        ip=status.get("podIP"),
        ready=_condition(status, "Ready").get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        template_hash=_template_hash(metadata),
        restarts=int(actual.get("restartCount", 0)),
        wanted_memory_bytes=_limit_bytes(wanted) or 0,
        memory_bytes=_limit_bytes(actual) if "running" in actual.get("state", {}) else None,
        resize=_resize(metadata, status),
        wanted_cpu=_cpu(wanted),
        cpu=_cpu(actual) if "running" in actual.get("state", {}) else None,
        trouble=pod_trouble(status),
    )


def claim_state(claim: Raw, storage_classes: Mapping[str, Raw]) -> ClaimState:
    """A volume claim of a cache's StatefulSet; ``storage_classes`` by name.

    Raises:
        UnreadableError: it says what is not understood.
    """
    try:
        return _claim_state(claim, storage_classes)
    except _UNREADABLE as error:
        raise UnreadableError(unreadable(claim, error)) from None


class UnreadableError(Exception):
    """An object cannot be read; the message names it."""


def _claim_state(claim: Raw, storage_classes: Mapping[str, Raw]) -> ClaimState:
    metadata, spec, status = claim["metadata"], claim["spec"], claim.get("status", {})
    storage_class = spec.get("storageClassName")
    grown = metadata.get("annotations", {}).get(GROWN_AT)
    actual = status.get("capacity", {}).get("storage") if status.get("phase") == "Bound" else None
    return ClaimState(
        name=metadata["name"],
        ordinal=ordinal_of(metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        storage_class=storage_class,
        wanted_bytes=parse_quantity(spec["resources"]["requests"]["storage"]),
        actual_bytes=None if actual is None else parse_quantity(actual),
        expandable=bool(storage_classes.get(storage_class or "", {}).get("allowVolumeExpansion")),
        deleting="deletionTimestamp" in metadata,
        problem=_claim_problem(status),
        grown_s=None if grown is None else epoch_s(grown),
    )


def set_state(stateful_set: Raw) -> SetState:
    """A cache's StatefulSet."""
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    container = _named(spec["template"]["spec"]["containers"], NODE_CONTAINER)
    claim = next(
        (c for c in spec.get("volumeClaimTemplates", ()) if c["metadata"]["name"] == SSD_CLAIM), None
    )
    return SetState(
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        replicas=int(spec.get("replicas", 1)),
        template_hash=_template_hash(metadata),
        memory_bytes=_limit_bytes(container) or 0,
        claim_bytes=None
        if claim is None
        else parse_quantity(claim["spec"]["resources"]["requests"]["storage"]),
        claim_class=None if claim is None else claim["spec"].get("storageClassName"),
        deleting="deletionTimestamp" in metadata,
    )


def ordinal_of(name: str) -> int:
    """The number at the end of the name of a pod or claim of a StatefulSet.

    Raises:
        ValueError: there is none, so it is no such pod.
    """
    return int(name.rpartition("-")[2])


def epoch_s(timestamp: str) -> float:
    """Seconds since the epoch of a Kubernetes timestamp (RFC 3339)."""
    return datetime.fromisoformat(timestamp).timestamp()


def _resize(metadata: Raw, status: Raw) -> PodResize | None:
    """A resize that the kubelet has not done, in its words.

    Pending (Deferred or Infeasible) counts before one in progress: a new size may be pending while the one
    before it is still being done.
    """
    pending = _condition(status, "PodResizePending")
    if pending.get("status") == "True":
        reason: ResizeReason = "Infeasible" if pending.get("reason") == "Infeasible" else "Deferred"
        return _resize_of(pending, reason)
    progress = _condition(status, "PodResizeInProgress")
    if progress.get("status") == "True":
        return _resize_of(progress, "Error" if progress.get("reason") == "Error" else "InProgress")
    if status.get("observedGeneration", math.inf) < metadata.get("generation", 0):
        # Nobody says since when; it is waited for, and no deadline runs.
        return PodResize("InProgress", "the kubelet has not looked at the pod's newest size yet", math.inf)
    return None


def _resize_of(condition: Raw, reason: ResizeReason) -> PodResize:
    since = condition.get("lastTransitionTime") or condition.get("lastProbeTime")
    return PodResize(reason, str(condition.get("message") or ""), epoch_s(since) if since else 0.0)


def _claim_problem(status: Raw) -> str | None:
    for kind in _CLAIM_PROBLEMS:
        condition = _condition(status, kind)
        if condition.get("status") == "True":
            return f"{kind}: {condition.get('message') or condition.get('reason') or 'no reason given'}"
    stage = status.get("allocatedResourceStatuses", {}).get("storage")
    return f"{stage}: the volume cannot have this size" if stage in _INFEASIBLE else None


def _template_hash(metadata: Raw) -> str:
    return str(metadata.get("annotations", {}).get(TEMPLATE_HASH, ""))


def _limit_bytes(container: Raw) -> int | None:
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    return None if limit is None else parse_quantity(str(limit))


def _cpu(container: Raw) -> int | None:
    request = container.get("resources", {}).get("requests", {}).get("cpu")
    return None if request is None else parse_cpu(str(request))


def _condition(status: Raw, kind: str) -> Raw:
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def _named(items: Any, name: str) -> Raw:
    found: Raw = next((item for item in items if item["name"] == name), {})
    return found
