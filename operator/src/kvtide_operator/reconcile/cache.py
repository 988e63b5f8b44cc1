"""One TieredCache on Kubernetes: passes that bring the cluster to its target, and what a round may decide."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pydantic import ValidationError

from kvtide_operator.act.kubernetes.children import children, wanted_hash
from kvtide_operator.act.kubernetes.errors import ConflictError
from kvtide_operator.act.kubernetes.execute import Ending, Outcome
from kvtide_operator.act.place import Resized
from kvtide_operator.act.status import (
    remembered_holds,
    remembered_moves,
    remembered_ssd_class,
    remembered_target,
    status_of,
    written,
)
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.base import API_VERSION
from kvtide_operator.api.manifest import Manifest, ManifestError
from kvtide_operator.api.status import DecisionStatus
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.converge import converge
from kvtide_operator.decide.policy import Verdict
from kvtide_operator.decide.steps import Held, Pass, Step
from kvtide_operator.decide.target import Target, initial_target, sizes_of, within
from kvtide_operator.loop import Round
from kvtide_operator.planner.bill import Bill
from kvtide_operator.reconcile.access import Nodes
from kvtide_operator.reconcile.declared import (
    first_class,
    forbidden_file,
    manifest_of,
    remembered_classes,
    sentence_of,
)
from kvtide_operator.reconcile.failures import Failure, stalled_status
from kvtide_operator.reconcile.hands import Hands
from kvtide_operator.reconcile.plans import Plans, why_no_plan
from kvtide_operator.reconcile.retries import Retries
from kvtide_operator.reconcile.troubles import Troubles
from kvtide_operator.world.cluster import CacheWorld
from kvtide_operator.world.kinds import SERVICE_MONITOR, STATEFUL_SET, TIER_CLASS, TIERED_CACHE, CacheKey, Raw

MAX_NEWS: Final = 64
"""Decisions that could not be written into the status yet; older ones are forgotten."""

FAILURES: Final = frozenset({Ending.FOREIGN, Ending.REFUSED, Ending.FAILED})
"""How what a pass wanted may end without having come about."""

PassEnding = Literal["settled", "acted", "waits"]
"""How a pass ended: nothing is to be done, something was, or something else is waited for."""


@dataclass
class LiveCache:
    """What is known of one cache between its passes; if it is lost, the world and the status say it again.

    It is the `act.place.Place` of the cache's rounds.

    Attributes:
        manifest: what is declared; None while that cannot be used.
        unplannable: why no round may plan; None where one may.
        last: the newest round.
        round_failure: why there was no newer one; None where there was.
        failed: what of the last pass did not come about.
        cost_per_hour: of its tiers, as the status has it; None where that is not known.
        target: what the cache shall hold.
        ssd_class: of its SSD tier, None without one.
    """

    key: CacheKey
    hands: Hands
    manifest: Manifest | None = None
    unplannable: str | None = None
    last: Round | None = None
    round_failure: str | None = None
    failed: tuple[Outcome, ...] = ()
    cost_per_hour: float | None = None
    target: Target = field(default_factory=lambda: Target(0))
    ssd_class: str | None = None
    nodes: Nodes = field(init=False)
    plans: Plans = field(init=False)
    troubles: Troubles = field(init=False)
    _classes: dict[str, TierClass] = field(default_factory=dict)
    _known: bool = False
    _acted: bool = False
    _raw: Raw = field(default_factory=dict)
    _held: tuple[Held, ...] = ()
    _retries: Retries = field(default_factory=Retries)
    _news: list[DecisionStatus] = field(default_factory=list)
    _moves: list[DecisionStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = Nodes(self.hands.api, self.key)
        self.plans = Plans(self.hands.api, self.hands.store, self.key)
        self.troubles = Troubles(self.hands.api, self.key)

    @property
    def decisions(self) -> Sequence[DecisionStatus]:
        """The moves so far, newest first."""
        return self._moves

    @property
    def approved(self) -> bool:
        """Whether an approved plan still says what the newest one says."""
        return self.plans.approved

    async def act(self, verdict: Verdict, decision: DecisionStatus) -> Sequence[Resized]:
        """Have passes bring the cache to the verdict's target from now on."""
        if verdict.action == "Hold":
            self._news = [*self._news, decision][-MAX_NEWS:]
        else:
            await self._move(verdict.target, verdict.ssd_class or self.ssd_class, decision)
        return ()

    async def take_plan(self, done: Round, currency: str) -> None:
        """Write down what a round has planned, and say so where somebody has to approve it.

        Raises:
            ApiError: it could not be written.
        """
        assert self.manifest is not None, "a round has a manifest"
        cache = self.manifest.cache
        self.last = done
        name = await self.plans.take(cache, done, currency, time.time())
        if name is not None and cache.spec.scaling.mode == "Advise":
            said = f"CachePlan {name} waits for approval: kubectl patch cacheplan {name} --type=merge -p "
            said += '\'{"spec":{"approved":true}}\''
            await self.hands.events.record(self._raw, "PlanWaits", said)

    async def _move(self, target: Target, ssd_class: str | None, decision: DecisionStatus) -> None:
        self.target, self.ssd_class, self._retries = target, ssd_class, Retries()
        self._news = [*self._news, decision][-MAX_NEWS:]
        self._moves.insert(0, decision)
        await self.hands.events.record(self._raw, decision.action, decision.reason)

    async def run_pass(self) -> PassEnding:
        """Look at everything once and do what is to be done.

        Raises:
            ApiError: the API server is not there, or refuses what every pass needs.
            NotLeaderError: another operator leads by now.
        """
        now_s = time.time()
        self._raw = self.hands.store.get(TIERED_CACHE, *self.key) or self._raw
        try:
            cache = TieredCache.model_validate(self._raw)
        except ValidationError as error:
            self.manifest = None
            await self._write(stalled_status(self._raw, Failure("InvalidSpec", sentence_of(error)), now_s))
            return "settled"
        claimed = await self._claimed(cache)
        if claimed is None:
            self.manifest = None
            return "waits"
        cache = claimed
        await self._recall(cache, now_s)
        world = self.hands.store.world(self.key, cache.metadata.uid, now_s)
        done: Pass | None = None
        problem: str | None = None
        try:
            classes = self.hands.store.every(TIER_CLASS)
            self.manifest, gone = manifest_of(self.key, cache, classes, self._classes)
            self.unplannable = gone or forbidden_file(cache) or self.hands.allowed.refusal(cache.spec)
            world, done = await self._converge(self.manifest, world, now_s)
        except ManifestError as error:
            self.manifest = None
            problem = str(error)
        await self._report(cache, world, done, problem)
        if done is None or (done.settled and not self._retries.any):
            return "settled"
        return "acted" if self._acted else "waits"

    async def pass_failed(self, failure: Failure) -> None:
        """Say why the last pass came to no end. The next one that does takes it back.

        Raises:
            ApiError: that cannot be written either.
            NotLeaderError: another operator leads by now.
        """
        await self.hands.events.record(self._raw, failure.reason, failure.sentence, kind="Warning")
        await self._write(stalled_status(self._raw, failure, time.time()))

    async def round_failed(self, failure: Failure) -> None:
        """Say why the last round came to no end, until one does; the next pass writes it into the status."""
        self.round_failure = failure.sentence
        await self.warn(failure)

    async def warn(self, failure: Failure) -> None:
        """An Event on what is wrong; the same one again is counted."""
        await self.hands.events.record(self._raw, failure.reason, failure.sentence, kind="Warning")

    async def close(self) -> None:
        """Let go of the nodes."""
        await self.nodes.close()

    async def _claimed(self, cache: TieredCache) -> TieredCache | None:
        """The cache with this operator in its status; None while another one looks after it."""
        leads, by = self.hands.leads, cache.status.looked_after_by if cache.status else None
        rival = await leads.rival(by)
        if rival is not None:
            await self.hands.events.record(self._raw, "AnotherLeads", rival, kind="Warning")
            return None
        if by == leads.own:
            return cache
        status = {**self._raw.get("status", {}), "lookedAfterBy": leads.own.model_dump(by_alias=True)}
        try:
            # Of this very version: of two that claim it at once one is refused.
            await self._write(status, resource_version=self._raw["metadata"]["resourceVersion"])
        except ConflictError:
            return None
        self._raw = self.hands.store.get(TIERED_CACHE, *self.key) or self._raw
        return TieredCache.model_validate(self._raw)

    async def _recall(self, cache: TieredCache, now_s: float) -> None:
        """Begin where an earlier operator was, and follow what the spec says now."""
        if not self._known:
            self._known = True
            self.target = remembered_target(cache.status) or initial_target(cache.spec)
            self.ssd_class = remembered_ssd_class(cache.status) or first_class(cache)
            self._held = remembered_holds(cache.status)
            self._moves = remembered_moves(cache.status)
            self._classes = remembered_classes(self.hands.store.get(STATEFUL_SET, *self.key))
        is_manual = cache.spec.scaling.mode == "Manual"
        target = within(initial_target(cache.spec) if is_manual else self.target, cache.spec)
        declared = cache.spec.ssd.classes if cache.spec.ssd else ()
        ssd_class = self.ssd_class
        if is_manual or ssd_class not in declared:
            ssd_class = first_class(cache)
        if (target, ssd_class) != (self.target, self.ssd_class):
            why = "the spec has other bounds or classes"
            if is_manual:
                why = "mode is Manual: capacity.initial holds, and the first class"
            before, after = sizes_of(self.target, self.ssd_class), sizes_of(target, ssd_class)
            edit = DecisionStatus(time=now_s, action="Edit", before=before, after=after, reason=why)
            await self._move(target, ssd_class, edit)

    async def _converge(self, manifest: Manifest, world: CacheWorld, now_s: float) -> tuple[CacheWorld, Pass]:
        cache, hands = manifest.cache, self.hands
        uid = cache.metadata.uid
        await self.nodes.follow(cache, uid, world.pods)
        states, silent = await self.nodes.ask()
        world = replace(world, nodes=states, silent=silent, troubles=await self.troubles.of(world, uid))
        ssd_class = manifest.classes[self.ssd_class].spec if self.ssd_class else None
        done = converge(
            world,
            self.target,
            cache.spec,
            name=self.key.name,
            held=self._held,
            now_s=now_s,
            term=hands.leads.term,
            template_hash=wanted_hash(cache, has_ssd=ssd_class is not None, ssd_class=ssd_class),
            refused=self._retries.resting(time.monotonic()),
            volume=ssd_class.volume if ssd_class else None,
            storage_class=ssd_class.storage_class_name if ssd_class else None,
            target_since_s=self._moves[0].time if self._moves else 0.0,
        )
        stateful_set, foreign = done.stateful_set, list[str]()
        if stateful_set is not None:
            stateful_set, foreign = await self.troubles.permitted(stateful_set, world, uid)
        manifests = children(
            cache,
            uid,
            stateful_set,
            ssd_class=ssd_class,
            operator_namespace=hands.namespace,
            has_service_monitors=SERVICE_MONITOR in hands.store.kinds,
            classes=manifest.classes,
        )
        applied = await hands.executor.apply(uid, manifests)
        taken = await hands.executor.take(self.key, uid, done.steps, self.nodes.clients)
        self._held = done.held
        # What failed is not tried again at once.
        self._acted = bool(taken) and all(outcome.ending is Ending.DONE for outcome in taken)
        others = (Outcome(sentence, Ending.FOREIGN, sentence) for sentence in foreign)
        await self._learn((*applied, *others, *taken))
        refusals = [f"refused: {one.sentence}" for one in taken if one.ending is Ending.REFUSED]
        return world, replace(done, waiting=(*done.waiting, *refusals))

    async def _learn(self, outcomes: tuple[Outcome, ...]) -> None:
        self.failed = tuple(outcome for outcome in outcomes if outcome.ending in FAILURES)
        self._retries.learn(outcomes, time.monotonic())
        for outcome in self.failed:
            await self.hands.events.record(self._raw, outcome.ending, outcome.sentence, kind="Warning")

    async def _report(
        self, cache: TieredCache, world: CacheWorld, done: Pass | None, problem: str | None
    ) -> None:
        last, manifest = self.last, self.manifest
        bill = Bill.of(manifest) if manifest is not None else None
        await self.plans.review(
            cache, self.target, settled=done is not None and done.settled, at_s=world.at_s
        )
        # A pod that does not run has not given up on anything: it starts, or its node is lost.
        for held in (held for held in (done.held if done else ()) if held.memory_bytes):
            await self.hands.events.record(
                self._raw, "ResizeGivenUp", f"{held.pod}: {held.reason}", kind="Warning"
            )
        for sentence in self.troubles.lasting(world.troubles):
            await self.hands.events.record(self._raw, "PodNotRunning", sentence, kind="Warning")
        seen = StatusInputs(
            cache=cache,
            world=world,
            target=self.target,
            done=done,
            problem=problem,
            blocked=(
                *(one.sentence for one in self.failed if not _is_waited_for(one)),
                *([] if done is None or done.deposed is None else [self.hands.leads.deposed(done.deposed)]),
                *self.troubles.blocked,
                *world.unreadable,
                *self.plans.unreadable,
            ),
            ssd_class=self.ssd_class,
            volume=manifest.classes[self.ssd_class].spec.volume if manifest and self.ssd_class else None,
            prices=bill.by_medium(self.ssd_class, len(world.claims)) if bill else {},
            has_one_currency=bill is not None and bill.has_one_currency,
            prefix_hit_ratio=last.demand.seen_prefix_hit_ratio if last and last.demand else None,
            metrics=last.metrics if last else None,
            plan=last.plan if last else None,
            plan_name=self.plans.newest,
            approved=self.plans.approved,
            notes=last.notes if last else (),
            no_plan=self.unplannable or self.round_failure or why_no_plan(last),
            prediction_error=last.noise if last else None,
            decisions=tuple(self._news),
        )
        status = status_of(seen)
        self.cost_per_hour = status.cost_per_hour
        self._moves = remembered_moves(status)
        await self._write(written(status))
        # Whatever a round has decided meanwhile is news for the next pass.
        self._news = self._news[len(seen.decisions) :]

    async def _write(self, status: dict[str, Any], *, resource_version: str | None = None) -> None:
        if status == self._raw.get("status"):
            return
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "TieredCache",
            "metadata": {
                "namespace": self.key.namespace,
                "name": self.key.name,
                **({} if resource_version is None else {"resourceVersion": resource_version}),
            },
            "status": status,
        }
        self.hands.store.put(TIERED_CACHE, await self.hands.api.apply_status(manifest))


def _is_waited_for(outcome: Outcome) -> bool:
    """Whether a pass goes on around a refusal, and `Reconciling` says so."""
    return outcome.ending is Ending.REFUSED and isinstance(outcome.what, Step)
