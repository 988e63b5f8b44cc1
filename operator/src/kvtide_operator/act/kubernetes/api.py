"""The verbs on Kubernetes objects, as dictionaries: bounded retries, calls counted, a gate before writes."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from kvtide_operator.act.kubernetes.compare import as_applied, differs
from kvtide_operator.act.kubernetes.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotLeaderError,
    ThrottledError,
    TimedOutError,
    UnavailableError,
)
from kvtide_operator.act.kubernetes.transport import Call, Transport
from kvtide_operator.world.kinds import Kind, Raw, kind_of

FIELD_MANAGER: Final = "kvtide"
"""Of every write; Argo CD's ``managedFieldsManagers`` names it."""
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.25
"""Before the second attempt; doubled each time, times a random share between a half and one."""
MAX_RETRY_AFTER_S: Final = 10.0
"""A server that asks for more is asked again by the next pass instead."""
PAGE_OBJECTS: Final = 500
MAX_PAGES: Final = 200

_Retried = (ThrottledError, UnavailableError, TimedOutError)


class Gate(Protocol):
    """Who may write: the holder of the Lease."""

    def term(self) -> int:
        """The term in which this process leads; raises NotLeaderError when it does not."""

    def check(self, term: int) -> None:
        """Raise NotLeaderError unless this process leads in that very term, now. Called in any thread."""


class OpenGate:
    """Lets everything through: for the Lease itself, and for tools that are not elected."""

    def term(self) -> int:
        """Always 0."""
        return 0

    def check(self, term: int) -> None:
        """Nothing to check."""


class ApiMetrics:
    """What the calls were and how long they took, in the Prometheus text format."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "kvtide_operator_api_calls", "Calls to the Kubernetes API, each attempt counted.",
            ("verb", "resource", "code"), registry=registry,
        )  # fmt: skip
        self.duration = Histogram(
            "kvtide_operator_api_call_duration_seconds", "How long an attempt took.",
            ("verb",), registry=registry, buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0),
        )  # fmt: skip


class KubernetesApi:
    """Objects in and out.

    ``random`` gives numbers in [0, 1) for the jitter of retries.

    Every method raises ApiError, and those that write NotLeaderError: before anything is sent.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        gate: Gate,
        metrics: ApiMetrics,
        random: Callable[[], float],
        attempts: int = ATTEMPTS,
    ) -> None:
        self._transport = transport
        self._gate = gate
        self._metrics = metrics
        self._random = random
        self._attempts = attempts

    async def get(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        """One object."""
        return await self._call(Call("GET", kind.path(namespace, name), {}), kind)

    async def list(
        self, kind: Kind, namespace: str | None = None, label_selector: str = "", *, field_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """The objects of a kind, and the resource version at which the list holds."""
        query = {"limit": str(PAGE_OBJECTS)}
        if field_selector:
            query["fieldSelector"] = field_selector
        if label_selector:
            query["labelSelector"] = label_selector
        items: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            page = await self._call(Call("GET", kind.path(namespace), query), kind)
            # Items of a list lack what the list says once for all of them.
            items += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page["items"]]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]
        raise ApiError(f"GET {kind.path(namespace)}", f"more than {MAX_PAGES * PAGE_OBJECTS:,} objects")

    async def apply(self, manifest: Raw, *, uid: str | None = None) -> dict[str, Any]:
        """Server-side apply of a child that is ours alone; what others hold of its fields is taken over.

        With a ``uid`` only to the object that has it, never to a namesake: ConflictError then.
        """
        kind, path = _place(manifest)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        body = dict(manifest)
        if uid is not None:
            body["metadata"] = {**manifest["metadata"], "uid": uid}
        try:
            return await self._write(Call("PATCH", path, query, body, "application/apply-patch+yaml"), kind)
        except InvalidError as error:
            if (
                uid is not None and "metadata.uid" in error.sentence
            ):  # how the server says that it is another one
                raise ConflictError(f"PATCH {path}", error.sentence, 409) from None
            raise

    async def apply_if_changed(self, manifest: Raw, live: Raw) -> dict[str, Any] | None:
        """Apply to ``live`` where it differs from the manifest; None when nothing was written."""
        if not differs(manifest, live, FIELD_MANAGER):
            return None
        created = as_applied(live, FIELD_MANAGER)
        if created is not None:
            # A field that a creation has written stays for ever, unless it is made an applied one first.
            path = _place(manifest)[1]
            await self._write(
                Call("PATCH", path, {}, created, "application/json-patch+json"), kind_of(manifest)
            )
        return await self.apply(manifest, uid=live["metadata"]["uid"])

    async def apply_status(self, manifest: Raw) -> dict[str, Any]:
        """Server-side apply of the ``status`` of one of our own kinds; it becomes exactly what is given."""
        kind, path = _place(manifest)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        call = Call("PATCH", f"{path}/status", query, dict(manifest), "application/apply-patch+yaml")
        return await self._write(call, kind)

    async def patch(
        self, kind: Kind, namespace: str | None, name: str, patch: Raw, *, subresource: str = ""
    ) -> dict[str, Any]:
        """JSON merge patch; with ``metadata.resourceVersion`` in it, only of that very version."""
        return await self._patch(kind, namespace, name, patch, subresource, "application/merge-patch+json")

    async def patch_by_key(
        self, kind: Kind, namespace: str | None, name: str, patch: Raw, *, subresource: str = ""
    ) -> dict[str, Any]:
        """Strategic merge patch: items of lists such as ``containers`` are found by their name."""
        media_type = "application/strategic-merge-patch+json"
        return await self._patch(kind, namespace, name, patch, subresource, media_type)

    async def create(self, manifest: Raw) -> dict[str, Any]:
        """Create an object; ConflictError when it is there already."""
        kind = kind_of(manifest)
        path = kind.path(manifest["metadata"].get("namespace"))
        # As strict as an apply: what is misspelt in a part that we pass on is refused, not left out.
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._write(Call("POST", path, query, dict(manifest), "application/json"), kind)

    async def replace(self, manifest: Raw) -> dict[str, Any]:
        """Write a whole object over the version that its ``metadata.resourceVersion`` names."""
        kind, path = _place(manifest)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write(Call("PUT", path, query, dict(manifest), "application/json"), kind)

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, uid: str, orphan: bool = False
    ) -> None:
        """Delete the object that has this uid, not a namesake; ``orphan`` leaves what it owns."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Orphan" if orphan else "Background",
        }
        path = kind.path(namespace, name)
        await self._write(Call("DELETE", path, {}, options, "application/json"), kind)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    async def _patch(
        self, kind: Kind, namespace: str | None, name: str, patch: Raw, subresource: str, media_type: str
    ) -> dict[str, Any]:
        path = kind.path(namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write(Call("PATCH", path, query, dict(patch), media_type), kind)

    async def _write(self, call: Call, kind: Kind) -> dict[str, Any]:
        # The term is taken now and checked in the thread: a write that waited for a free thread while the
        # Lease was lost, or lost and won again, was decided by a leader that is no more.
        term = self._gate.term()
        return await self._call(call, kind, lambda: self._gate.check(term))

    async def _call(
        self, call: Call, kind: Kind, before: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._counted(call, kind, before)
            except _Retried as error:
                wait_s = _wait_s(error, attempt, self._random())
                if attempt == self._attempts or wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("every attempt returns or raises")

    async def _counted(self, call: Call, kind: Kind, before: Callable[[], None]) -> dict[str, Any]:
        code = "200"
        started_s = time.perf_counter()
        try:
            return await self._transport.send(call, before)
        except NotLeaderError:
            code = "not-leader"
            raise
        except ApiError as error:
            code = str(error.status or "none")
            raise
        finally:
            self._metrics.calls.labels(call.verb, kind.plural, code).inc()
            self._metrics.duration.labels(call.verb).observe(time.perf_counter() - started_s)


def _place(manifest: Raw) -> tuple[Kind, str]:
    kind = kind_of(manifest)
    metadata: Mapping[str, str] = manifest["metadata"]
    return kind, kind.path(metadata.get("namespace"), metadata["name"])


def _wait_s(error: ApiError, attempt: int, share: float) -> float | None:
    """How long to wait before the next attempt; None when the server asks for more than we wait."""
    backoff_s = BACKOFF_S * 2 ** (attempt - 1) * (0.5 + share / 2)
    asked_s = error.retry_after_s if isinstance(error, ThrottledError) else None
    if asked_s is None:
        return backoff_s
    return None if asked_s > MAX_RETRY_AFTER_S else asked_s + backoff_s


async def exists(api: KubernetesApi, kind: Kind, namespace: str | None = None) -> bool:
    """Whether the cluster knows a kind, and lets us see it in a namespace, or in all of them."""
    try:
        await api.list(kind, namespace, "kvtide.dev/none")
    except (NotFoundError, ForbiddenError):
        return False
    return True
