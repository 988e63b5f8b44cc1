"""The operator as a process: what it is made of, how it starts, leads, stands by and stops."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import uuid4

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kvtide_operator.act.kubernetes.api import ApiMetrics, KubernetesApi, OpenGate, exists
from kvtide_operator.act.kubernetes.errors import ApiError
from kvtide_operator.act.kubernetes.events import Events
from kvtide_operator.act.kubernetes.execute import Executor
from kvtide_operator.act.kubernetes.lease import DURATION_S, Election
from kvtide_operator.act.kubernetes.transport import Transport, find_cluster
from kvtide_operator.endpoints import Address, Endpoints
from kvtide_operator.observe.watch_relist import RELIST_S, Relist
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.world.kinds import (
    CHILD_KINDS,
    OWN_KINDS,
    SERVICE_MONITOR,
    STORAGE_CLASS,
    TIERED_CACHE,
    CacheKey,
    Kind,
)

LEASE_NAME: Final = "kvtide-operator"
API_THREADS: Final = 16
STOP_TIMEOUT_S: Final = 5.0
"""How long the controller may take to end what it is doing; after that it is left behind."""
KINDS_RETRY_S: Final = 5.0

log = logging.getLogger("kvtide_operator")


@dataclass(frozen=True, slots=True)
class Options:
    """How the operator was started.

    Attributes:
        namespaces: whose caches to look after; empty for all.
        identity: a name for this replica; every process adds a suffix of its own.
        release: what this operator and its other replicas are called.
    """

    namespaces: tuple[str, ...]
    metrics: Address
    probes: Address
    lease_namespace: str
    identity: str
    release: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a controller works with. Every write through ``api`` passes the leader's gate.

    Attributes:
        namespace: where the operator's own pods and its Lease are.
        release: what it is called.
        lease: its name.
        outgrow: have the Lease come to a term above a given one.
    """

    api: KubernetesApi
    executor: Executor
    events: Events
    store: ObjectStore
    registry: CollectorRegistry
    namespace: str
    release: str
    lease: str
    outgrow: Callable[[int], None]


class Controller(Protocol):
    """Looks after caches while this process leads."""

    async def start(self, term: int) -> None:
        """Begin, with every cache in the store; ``term`` goes into the documents for nodes."""

    async def stop(self) -> None:
        """End everything that is under way, within seconds. It may be started again, in another term."""

    def wake(self, key: CacheKey) -> None:
        """Something about a cache has changed. Also called while not started."""


class OperatorProcess:
    """One replica of the operator.

    Attributes:
        failure: what it cannot go on after, None while there is no such thing.
        ended: set when it has stopped or failed.
    """

    def __init__(self, options: Options, make_controller: Callable[[Surroundings], Controller]) -> None:
        self._options = options
        self._make_controller = make_controller
        self._identity = f"{options.identity}_{uuid4().hex[:8]}"
        self._registry = CollectorRegistry()
        self._metrics = ApiMetrics(self._registry)
        cluster = find_cluster()
        # The Lease has a connection and a thread of its own: other calls can never keep it waiting.
        leases = KubernetesApi(
            Transport(cluster, threads=1),
            gate=OpenGate(),
            metrics=self._metrics,
            random=random.random,
            attempts=1,
        )
        self._election = Election(
            leases, options.lease_namespace, LEASE_NAME, self._identity, random=random.random
        )
        self._api = KubernetesApi(
            Transport(find_cluster(), threads=API_THREADS),
            gate=self._election, metrics=self._metrics, random=random.random,
        )  # fmt: skip
        self._apis = (self._api, leases)
        self._endpoints = Endpoints(
            probes=options.probes, metrics=options.metrics, registry=self._registry,
            healthy={"lease": self._overdue, "process": lambda: self.failure},
            ready={"lists": self._unlisted},
        )  # fmt: skip
        self._store: ObjectStore | None = None
        self._controller: Controller | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None
        self.failure: str | None = None
        self.ended = asyncio.Event()

    async def start(self) -> tuple[Kind, ...]:
        """Answer probes, wait for the CRDs, begin to list; returns the kinds to watch."""
        probes, metrics = await self._endpoints.start()
        log.info("Started", extra={"identity": self._identity, "probes": probes, "metrics": metrics})
        there = await self._kinds_there()
        watched = tuple(kind for kind in (*OWN_KINDS, *CHILD_KINDS, SERVICE_MONITOR) if kind in there)
        # Without the right to see classes no volume is taken for one that can grow.
        listed = (*watched, STORAGE_CLASS) if STORAGE_CLASS in there else watched
        store = self._store = ObjectStore(listed, self._wake)
        self._registry.register(_StoreMetrics(store, self._election))
        events = Events(self._api, self._identity)
        executor = Executor(self._api, live=store.get, seen=store.put)
        around = Surroundings(
            self._api, executor, events, store, self._registry, self._options.lease_namespace,
            self._options.release, LEASE_NAME, self._election.outgrow,
        )  # fmt: skip
        self._controller = self._make_controller(around)
        self._relist = Relist(
            store, self._api, namespaces=self._options.namespaces, failures=ApiError, random=random.random
        )
        self._run(self._relist.run(), "relist")
        return watched

    def lead(self) -> None:
        """Stand for leader from now on, and lead whenever elected."""
        self._run(self._lead(), "leader")

    def end(self) -> None:
        """Begin to stop: the Lease is let go at once, whatever else takes its time."""
        self._stopping = self._stopping or asyncio.create_task(self._stop())

    async def stop(self) -> None:
        """Stop acting, release the Lease, close everything. Can be called twice."""
        self.end()
        assert self._stopping is not None
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoints.stop()
        for api in self._apis:
            api.close()
        self.ended.set()

    def heard(self, kind: Kind, event: Mapping[str, Any]) -> None:
        """Take an event of a watch: ``type`` (None for listed objects) and ``object``."""
        assert self._store is not None
        if event["type"] == "DELETED":
            self._store.drop(kind, event["object"])
        else:
            self._store.put(kind, event["object"])

    async def _lead(self) -> None:
        assert self._controller is not None
        await self._relist.synced()
        while True:
            term = await self._election.campaign()
            try:
                await self._controller.start(term)
                await self._election.keep()
            finally:
                # Another may lead while this one ends what is under way: the gate lets nothing more through.
                await asyncio.gather(self._election.release(), self._stop_controller(self._controller))

    async def _stop_controller(self, controller: Controller) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await controller.stop()
        except TimeoutError:
            log.warning("The controller did not stop in time", extra={"limit_s": STOP_TIMEOUT_S})

    async def _kinds_there(self) -> frozenset[Kind]:
        """What the cluster has of all that would be looked at; ours are waited for."""
        while True:
            try:
                if await self._has(TIERED_CACHE):
                    optional = [kind for kind in (SERVICE_MONITOR, STORAGE_CLASS) if await self._has(kind)]
                    return frozenset((*OWN_KINDS, *CHILD_KINDS, *optional))
                log.warning("No TieredCaches here yet: apply kvtide's CRDs and give the operator its roles")
            except ApiError as error:
                log.warning("Cannot reach the cluster yet", extra={"reason": str(error)})
            await asyncio.sleep(KINDS_RETRY_S)

    async def _has(self, kind: Kind) -> bool:
        # A Role is of one namespace: in all of them there may be nothing that we are allowed to see.
        return await exists(self._api, kind, next(iter(self._options.namespaces), None))

    def _wake(self, key: CacheKey) -> None:
        if self._controller is not None:
            self._controller.wake(key)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        log.error("A task of the operator failed; it ends", exc_info=error, extra={"task": task.get_name()})
        self.failure = f"{task.get_name()} failed: {error!r}"
        self.ended.set()

    def _overdue(self) -> str | None:
        # Being late is normal, being stuck is not: by then another replica leads.
        overdue_s = self._election.overdue_s
        return f"still takes itself for leader {overdue_s:.0f} s late" if overdue_s > DURATION_S else None

    def _unlisted(self) -> str | None:
        if self._store is None:
            return "waits for the CRDs"
        late = [kind.plural for kind in self._store.kinds if self._store.silence_s(kind) > 3 * RELIST_S]
        if not self._store.synced or late:
            return f"has not heard of {', '.join(late) or 'all kinds'}: " + "; ".join(
                self._relist.problems.values()
            )
        return None


class _StoreMetrics:
    """What was heard of the cluster, and whether this replica leads."""

    def __init__(self, store: ObjectStore, election: Election) -> None:
        self._store = store
        self._election = election

    def collect(self) -> Iterable[Metric]:
        """At each scrape."""
        silence = GaugeMetricFamily(
            "kvtide_operator_watch_silence_seconds", "Since an event or a list told of a resource.",
            labels=["resource"],
        )  # fmt: skip
        missed = CounterMetricFamily(
            "kvtide_operator_watch_missed", "Changes that a list found before any event.", labels=["resource"]
        )
        objects = GaugeMetricFamily("kvtide_operator_objects", "Objects known.", labels=["resource"])
        for kind in self._store.kinds:
            silence.add_metric([kind.plural], self._store.silence_s(kind))
            missed.add_metric([kind.plural], self._store.missed(kind))
            objects.add_metric([kind.plural], self._store.count(kind))
        leads = GaugeMetricFamily("kvtide_operator_leader", "1 while this replica leads.")
        leads.add_metric([], float(self._election.leads))
        return (silence, missed, objects, leads)
