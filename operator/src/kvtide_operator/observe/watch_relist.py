"""Lists every kind at start and again from time to time: what the watches bring sooner, lists bring surely.

A watch can go deaf without an error, and what was deleted while it was away is never told. So the objects are
listed again every ``RELIST_S``, and what a list had to correct is counted (`ObjectStore.missed`).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.world.kinds import CACHE_LABEL, CHILD_KINDS, SERVICE_MONITOR, Kind

RELIST_S: Final = 300.0
RETRY_S: Final = 5.0
"""After a list that failed."""

log = logging.getLogger("kvtide_operator.watch")


class Lister(Protocol):
    """Where lists come from."""

    async def list(
        self, kind: Kind, namespace: str | None = None, label_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """The objects of a kind, and the resource version at which the list holds."""


def selector_of(kind: Kind) -> str:
    """What the server selects by: only children that carry our label, of our own kinds everything."""
    return CACHE_LABEL if kind in (*CHILD_KINDS, SERVICE_MONITOR) else ""


class Relist:
    """Fills an `ObjectStore` by lists.

    Args:
        store: what to fill.
        lister: the Kubernetes API.
        namespaces: which to serve; empty for all.
        failures: the exceptions of ``lister`` that mean: not now.
        random: numbers in [0, 1), so that replicas do not list at the same moment.
    """

    def __init__(
        self,
        store: ObjectStore,
        lister: Lister,
        *,
        namespaces: Sequence[str],
        failures: type[Exception],
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._lister = lister
        self._namespaces = namespaces
        self._failures = failures
        self._random = random
        self._problems: dict[Kind, str] = {}
        self._synced = asyncio.Event()

    async def synced(self) -> None:
        """Wait until every kind has been listed once."""
        await self._synced.wait()

    @property
    def problems(self) -> Mapping[Kind, str]:
        """Kinds whose last list failed, and why."""
        return self._problems

    async def run(self) -> None:
        """List everything, now and for ever; a kind that fails is tried again soon, the others go on."""
        while True:
            await asyncio.gather(*(self._list(kind) for kind in self._store.kinds))
            if self._store.synced:
                self._synced.set()
            pause_s = RETRY_S if self._problems else RELIST_S
            await asyncio.sleep(pause_s * (0.9 + 0.2 * self._random()))

    async def _list(self, kind: Kind) -> None:
        namespaces = self._namespaces if kind.namespaced and self._namespaces else [""]
        try:
            for namespace in namespaces:
                items, version = await self._lister.list(kind, namespace or None, selector_of(kind))
                self._store.replace(kind, items, version, namespace)
        except self._failures as error:
            if self._problems.get(kind) != str(error):
                log.warning("Could not list", extra={"resource": kind.plural, "reason": str(error)})
            self._problems[kind] = str(error)
            return
        if self._problems.pop(kind, None):
            log.info("Listed again", extra={"resource": kind.plural})
        self._store.mark_listed(kind)
