"""Leader election by a Lease, as client-go does it: one process writes, and knows when it may not any more.

The holder renews every ``RETRY_S``. It may write until ``RENEW_DEADLINE_S`` after it *sent* the last renewal
that succeeded. Others take the Lease when they have seen no change of it for ``DURATION_S``, counted from
when they *received* its last change. Clocks are never compared: each side measures a span on its own clock,
and 10 s from an earlier moment end before 15 s from a later one, if both run at about the same rate.

``leaseTransitions`` is the term. It fences the nodes: they refuse documents of an older term.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from kvtide_operator.act.kubernetes.errors import ApiError, ConflictError, NotFoundError, NotLeaderError
from kvtide_operator.world.kinds import LEASE

DURATION_S: Final = 15.0
RENEW_DEADLINE_S: Final = 10.0
RETRY_S: Final = 2.0
JITTER: Final = 1.2
"""Candidates wait up to this many times longer, so that they do not all ask at once."""
CALL_TIMEOUT_S: Final = 5.0
RELEASE_TIMEOUT_S: Final = 8.0
"""For giving the Lease back: less than it takes to run out, and than a process has to end."""
RELEASE_RETRY_S: Final = 0.5
TERM_UNIT_S: Final = 10
"""A Lease made anew begins at the seconds since 1970 over this, and not at 0: after somebody deleted a Lease,
the next terms must be above those that the nodes have seen. It changes hands more slowly than that."""

HIGHEST_TERM: Final = 2**31 - 2
"""``leaseTransitions`` has 32 bits, and the next term must fit, too."""

log = logging.getLogger("kvtide_operator.lease")


class Leases(Protocol):
    """Where Leases are kept; what `KubernetesApi` offers, without its gate and without retries."""

    async def get(self, kind: Any, namespace: str | None, name: str) -> dict[str, Any]:
        """The Lease."""

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A new Lease; ConflictError when there is one."""

    async def replace(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Over the version it was made from; ConflictError when that is not the newest."""


def steady_s() -> float:
    """Seconds on a clock that never steps, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Election:
    """One candidate; also the gate that its writes pass.

    Attributes:
        identity: who this is; another one for every process that ever runs.
        random: numbers in [0, 1).
        steady: spans of time in seconds.
        wall: seconds since the epoch, only to be written for people to read.
    """

    leases: Leases
    namespace: str
    name: str
    identity: str
    random: Callable[[], float]
    steady: Callable[[], float] = steady_s
    wall: Callable[[], float] = time.time
    _lease: dict[str, Any] | None = None
    _seen_s: float = 0.0
    _term: int | None = None
    _until_s: float = 0.0
    _highest: int = -1
    _outgrown: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._term is not None and self.steady() < self._until_s

    @property
    def overdue_s(self) -> float:
        """For how long this process has believed to lead without the right to; 0 when all is well."""
        return 0.0 if self._term is None else max(0.0, self.steady() - self._until_s)

    def term(self) -> int:
        """The term in which this process leads.

        Raises:
            NotLeaderError: it does not.
        """
        if not self.leads or self._term is None:
            raise NotLeaderError("this process does not lead; nothing was written")
        return self._term

    def check(self, term: int) -> None:
        """Raise NotLeaderError unless this process leads in ``term``, now. Any thread may ask."""
        if self._term != term or not self.leads:
            raise NotLeaderError(f"this process does not lead in term {term} any more; nothing was written")

    def outgrow(self, term: int) -> None:
        """Have `keep` end, and `campaign` come to a term above this one, as only the Lease's holder can."""
        self._highest = max(self._highest, term)
        self._outgrown = self._term is not None and self._term <= term

    async def campaign(self) -> int:
        """Wait until this process leads, and return the term."""
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    if await self._try_to_acquire():
                        term = self.term()
                        log.info("Leading", extra={"term": term, "identity": self.identity})
                        return term
            except (ApiError, NotLeaderError, TimeoutError) as error:
                log.warning("Could not take the Lease", extra={"reason": str(error) or "no answer in time"})
            await asyncio.sleep(RETRY_S * (1 + (JITTER - 1) * self.random()))

    async def keep(self) -> None:
        """Renew the Lease; returns when it is lost, and from then on this process does not lead."""
        try:
            while True:
                await asyncio.sleep(min(RETRY_S, max(0.0, self._until_s - self.steady())))
                if not self.leads:
                    log.warning("Lost the Lease: no renewal within its deadline", extra={"term": self._term})
                    return
                if self._outgrown:
                    log.warning("Nodes have seen a later term", extra={"term": self._term})
                    return
                if not await self._renewed():
                    log.warning("Lost the Lease to another holder", extra={"term": self._term})
                    return
        finally:
            self._term = None
            self._outgrown = False

    async def release(self) -> None:
        """Give the Lease back, so that another takes it at once; when `campaign` and `keep` have ended.

        Does nothing when it is not held.
        """
        self._term = None
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                while self._lease is not None and self._lease["spec"].get("holderIdentity") == self.identity:
                    await self._let_go(self._lease)
        except (ApiError, TimeoutError) as error:
            log.warning("Could not release the Lease", extra={"reason": str(error) or "no answer in time"})
        self._lease = None

    async def _let_go(self, lease: Mapping[str, Any]) -> None:
        try:
            free = self._changed(lease, holderIdentity="", leaseDurationSeconds=1)
            self._lease = await self.leases.replace(free)
            log.info("Released the Lease")
        except ConflictError:
            # A renewal that was under way when `keep` was cancelled may have made another version.
            self._lease = await self.leases.get(LEASE, self.namespace, self.name)
        except NotFoundError:
            self._lease = None
        except ApiError as error:
            log.warning("Could not release the Lease yet", extra={"reason": str(error)})
            await asyncio.sleep(RELEASE_RETRY_S)

    async def _try_to_acquire(self) -> bool:
        try:
            lease = await self.leases.get(LEASE, self.namespace, self.name)
        except NotFoundError:
            first = max(int(self.wall()) // TERM_UNIT_S, self._highest + 1)
            sent_s = self.steady()
            self._hold(await self.leases.create(self._new(first)), sent_s)
            return True
        if self._lease is None or lease["metadata"]["resourceVersion"] != _version(self._lease):
            self._lease, self._seen_s = lease, self.steady()
            self._highest = max(self._highest, int(lease["spec"].get("leaseTransitions") or 0))
        spec = lease["spec"]
        duration_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
        # Also under our own name, which is there after a write whose answer was lost: what was decided in
        # that term has ended by then, and terms do not race ahead of the clock that a new Lease begins at.
        if spec.get("holderIdentity") and self.steady() - self._seen_s < duration_s:
            return False
        term = max(int(spec.get("leaseTransitions") or 0), self._highest) + 1
        taken = self._changed(
            lease, holderIdentity=self.identity, leaseTransitions=term, acquireTime=self._now(),
            leaseDurationSeconds=int(DURATION_S),
        )  # fmt: skip
        sent_s = self.steady()
        try:
            self._hold(await self.leases.replace(taken), sent_s)
        except ConflictError:
            return False
        return True

    async def _renewed(self) -> bool:
        """False when somebody else holds the Lease now; True also when the server did not answer."""
        assert self._lease is not None
        sent_s = self.steady()
        try:
            async with asyncio.timeout(min(CALL_TIMEOUT_S, self._until_s - sent_s)):
                self._hold(await self.leases.replace(self._changed(self._lease)), sent_s)
        except ConflictError:
            return await self._still_ours()
        except NotFoundError:
            return False
        except (ApiError, TimeoutError) as error:
            log.warning("Could not renew the Lease", extra={"reason": str(error) or "no answer in time"})
        return True

    async def _still_ours(self) -> bool:
        # A renewal whose answer was lost, or a person with kubectl, made a version that we have not seen.
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                lease = await self.leases.get(LEASE, self.namespace, self.name)
        except (ApiError, TimeoutError) as error:
            return not isinstance(error, NotFoundError)
        self._lease = lease
        spec = lease["spec"]
        return spec.get("holderIdentity") == self.identity and spec.get("leaseTransitions") == self._term

    def _hold(self, lease: dict[str, Any], sent_s: float) -> None:
        self._lease = lease
        self._until_s = sent_s + RENEW_DEADLINE_S
        self._term = int(lease["spec"]["leaseTransitions"])
        self._highest = max(self._highest, self._term)

    def _new(self, term: int) -> dict[str, Any]:
        now = self._now()
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(DURATION_S),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": term,
            },
        }

    def _changed(self, lease: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
        return {**lease, "spec": {**lease["spec"], "renewTime": self._now(), **spec}}

    def _now(self) -> str:
        return (
            datetime.fromtimestamp(self.wall(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        )


def _version(lease: Mapping[str, Any]) -> str:
    return str(lease["metadata"]["resourceVersion"])
