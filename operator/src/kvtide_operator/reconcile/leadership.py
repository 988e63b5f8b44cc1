"""Which of several operators looks after a cache: the one that its status names, as long as that lives."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import ApiError, NotFoundError
from kvtide_operator.act.kubernetes.lease import DURATION_S, HIGHEST_TERM, steady_s
from kvtide_operator.api.status import LookedAfterBy
from kvtide_operator.world.kinds import LEASE

LOOK_S: Final = 5.0
"""Between two looks at the Lease of another operator."""

log = logging.getLogger("kvtide_operator.leadership")


@dataclass(slots=True)
class _Known:
    version: str
    changed_s: float
    asked_s: float
    lives: bool


class Leaders:
    """The operators that lead somewhere in the cluster, by their Leases.

    As in an election, a Lease has run out when for as long as it lasts, on our clock, no change was seen.
    """

    def __init__(self, api: KubernetesApi, steady: Callable[[], float] = steady_s) -> None:
        self._api = api
        self._steady = steady
        self._known: dict[str, _Known] = {}

    async def lives(self, lease: str) -> bool:
        """Whether some process may lead by this Lease, ``NAMESPACE/NAME``; also if it cannot be looked at."""
        known, now_s = self._known.get(lease), self._steady()
        if known is not None and now_s - known.asked_s < LOOK_S:
            return known.lives
        namespace, _, name = lease.partition("/")
        try:
            found = await self._api.get(LEASE, namespace, name)
        except NotFoundError:
            self._known[lease] = _Known("", now_s, now_s, lives=False)
            return False
        except ApiError as error:
            log.warning("Cannot look at the Lease of another operator", extra={"reason": str(error)})
            return True
        version = str(found["metadata"]["resourceVersion"])
        changed_s = known.changed_s if known is not None and known.version == version else now_s
        lasts_s = max(float(found["spec"].get("leaseDurationSeconds") or 0), DURATION_S)
        lives = now_s - changed_s < lasts_s
        self._known[lease] = _Known(version, changed_s, now_s, lives)
        return lives


@dataclass(frozen=True, slots=True)
class Leadership:
    """By what this process leads.

    Attributes:
        term: in which it does.
        own: how it calls itself in the status of its caches.
        others: which other operators live.
        outgrow: have the Lease change hands until its term is above a given one.
    """

    term: int
    own: LookedAfterBy
    others: Leaders
    outgrow: Callable[[int], None]

    async def rival(self, of: LookedAfterBy | None) -> str | None:
        """A sentence on the other operator that looks after a cache; None where there is none any more."""
        if of is None or of.lease == self.own.lease or not await self.others.lives(of.lease):
            return None
        return (
            f"release {of.release} looks after this cache, by the Lease {of.lease}: release "
            f"{self.own.release} ({self.own.lease}) leaves it alone until that Lease is gone or has run out; "
            "uninstall one of the two, or let them watch different namespaces"
        )

    def deposed(self, by: int) -> str:
        """What to say of nodes that follow a later term than this one; the Lease goes above it if it can."""
        said = f"nodes follow term {by} of another leader, and the Lease {self.own.lease} is at {self.term}"
        if by >= HIGHEST_TERM:
            return f"{said}: no term is higher; delete the pods one after the other, and nodes forget it"
        self.outgrow(by)
        return f"{said}: it goes above that, and this operator then leads them"
