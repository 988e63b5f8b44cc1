"""Why a pod does not run, or is not there at all, in the words of Kubernetes. Pure."""

from collections.abc import Iterable
from typing import Final

from kvtide_operator.world.kinds import Raw

_ON_ITS_WAY: Final = ("ContainerCreating", "PodInitializing")
_NOT_MADE: Final = "FailedCreate"
_ERROR: Final = " failed error: "
"""The StatefulSet controller says ``create Pod chat-0 in StatefulSet chat failed error: …``."""


def pod_trouble(status: Raw) -> str | None:
    """What keeps a pod with this status from running; None where nothing is known to."""
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _said(condition)
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state = container.get("state", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated")
        if waiting.get("reason") == "CrashLoopBackOff":
            # Its own message counts seconds.
            last = container.get("lastState", {}).get("terminated", {})
            return f"CrashLoopBackOff: {_ending(last)}"
        if waiting.get("reason", _ON_ITS_WAY[0]) not in _ON_ITS_WAY:
            return _said(waiting)
        if ended is not None and container.get("name") not in _done(status):
            return _ending(ended)
    return _said(status) if status.get("phase") == "Failed" else None


def event_trouble(events: Iterable[Raw], *, pod: str | None = None) -> str | None:
    """The newest warning among the Events of one object.

    Args:
        events: of a pod, or of a StatefulSet.
        pod: one that the StatefulSet has not made: only what is said of that.
    """
    found = [event for event in events if event.get("type") == "Warning"]
    if pod is not None:
        found = [
            one for one in found if one.get("reason") == _NOT_MADE and f" {pod} " in str(one.get("message"))
        ]
    newest = max(found, key=_at, default=None)
    if newest is None:
        return None
    message = str(newest.get("message") or "")
    return f"{newest.get('reason')}: {message.partition(_ERROR)[2] or message}"


def _said(part: Raw) -> str:
    reason, message = part.get("reason") or "Unknown", part.get("message")
    return f"{reason}: {message}" if message else str(reason)


def _ending(terminated: Raw) -> str:
    reason = terminated.get("reason") or "unknown"
    said = f"its container ended with {reason}, exit code {terminated.get('exitCode', 'unknown')}"
    return f"{said}: {message.strip()}" if (message := terminated.get("message")) else said


def _done(status: Raw) -> frozenset[str]:
    """Init containers that have ended as they should."""
    return frozenset(
        one["name"]
        for one in status.get("initContainerStatuses", ())
        if one.get("state", {}).get("terminated", {}).get("exitCode") == 0
    )


def _at(event: Raw) -> str:
    """When it was last said: RFC 3339 in UTC, which sorts as text."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
