"""The CachePlans of a cache: written when there is news, followed through their phases, pruned."""

from pydantic import ValidationError

from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.children import labels
from kvtide_operator.act.kubernetes.errors import ConflictError, InvalidError, NotFoundError
from kvtide_operator.api.base import API_VERSION
from kvtide_operator.api.cacheplan import CachePlan
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.plan_document import cache_plan, point_of
from kvtide_operator.decide.plans import OVER, Circumstances, has_moved, is_needed, phase_of, review
from kvtide_operator.decide.target import Target
from kvtide_operator.loop import Round
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.reconcile.declared import sentence_of
from kvtide_operator.world.kinds import CACHE_PLAN, CacheKey
from kvtide_operator.world.owner import controlled_by, not_ours, owner_reference


class Plans:
    """What is written of a cache's plans.

    Attributes:
        approved: whether the newest plan may be followed in mode Advise.
        newest: the name of the newest that is not over.
        unreadable: a sentence on each plan that says what is not understood.
    """

    def __init__(self, api: KubernetesApi, store: ObjectStore, key: CacheKey) -> None:
        self._api = api
        self._store = store
        self._key = key
        self._active: CachePlan | None = None
        self._contradicted: str | None = None
        self.approved = False
        self.newest: str | None = None
        self.unreadable: tuple[str, ...] = ()

    async def review(self, cache: TieredCache, target: Target, *, settled: bool, at_s: float) -> None:
        """Bring every plan's phase up to date, and remove those that nobody needs any more.

        Raises:
            ApiError: one could not be written.
        """
        plans = self._plans(cache.metadata.uid)
        scaling = cache.spec.scaling
        now = Circumstances(
            mode=scaling.mode,
            target=target,
            settled=settled,
            at_s=at_s,
            minimum_gain=scaling.minimum_gain,
            contradicted=self._contradicted,
        )
        found = review(plans, now)
        self._active = found.active
        alive = [plan for plan in plans if phase_of(plan) not in OVER]
        self.newest = (
            max(alive, key=lambda plan: plan.metadata.creation_timestamp).metadata.name if alive else None
        )
        for plan in plans:
            name = plan.metadata.name
            if name in found.prune:
                await self._delete(plan)
            elif found.statuses[name] != plan.status:
                await self._write(
                    plan, found.statuses[name].model_dump(mode="json", by_alias=True, exclude_none=True)
                )

    async def take(self, cache: TieredCache, done: Round, currency: str, now_s: float) -> str | None:
        """Write the plan of a round where it is news; the name of one that was written.

        Raises:
            ApiError: it could not be written.
        """
        self._contradicted = done.verdict.reason if done.verdict.action == "RollBack" else None
        plan, demand, minimum = done.plan, done.demand, cache.spec.scaling.minimum_gain
        if plan is None or demand is None or cache.spec.scaling.mode == "Manual":
            self.approved = False
            return None
        written: str | None = None
        chosen = point_of(plan.chosen)
        if is_needed(chosen, plan.gain, self._plans(cache.metadata.uid), minimum):
            document = cache_plan(*self._key, plan, demand, currency=currency, now_s=now_s)
            written = await self._create(cache, document)
        active = self._active
        self.approved = active is not None and not has_moved(active.spec.point, chosen, minimum)
        return written

    def _plans(self, uid: str) -> list[CachePlan]:
        """The cache's own: somebody else's with our label is left alone."""
        plans, problems = [], []
        for raw in self._store.children(CACHE_PLAN, self._key):
            if not controlled_by(raw, uid):
                continue
            try:
                plans.append(CachePlan.model_validate(raw))
            except ValidationError as error:
                problems.append(f"CachePlan {raw['metadata']['name']} cannot be read: {sentence_of(error)}")
        self.unreadable = tuple(problems)
        return plans

    async def _create(self, cache: TieredCache, plan: CachePlan) -> str | None:
        """Write a plan; its name where there was none that says the same."""
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "CachePlan",
            "metadata": {
                "name": plan.metadata.name,
                "namespace": self._key.namespace,
                "labels": labels(cache),
                "ownerReferences": [owner_reference(self._key.name, cache.metadata.uid)],
            },
            "spec": plan.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"approved"}),
        }
        try:
            self._store.put(CACHE_PLAN, await self._api.create(manifest))
            return plan.metadata.name
        except ConflictError:
            there = await self._api.get(CACHE_PLAN, self._key.namespace, plan.metadata.name)
            if not controlled_by(there, cache.metadata.uid):
                raise InvalidError("creating a plan", not_ours(there, cache.metadata.uid)) from None
        return None

    async def _write(self, plan: CachePlan, status: object) -> None:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "CachePlan",
            "metadata": {"namespace": self._key.namespace, "name": plan.metadata.name},
            "status": status,
        }
        self._store.put(CACHE_PLAN, await self._api.apply_status(manifest))

    async def _delete(self, plan: CachePlan) -> None:
        try:
            await self._api.delete(CACHE_PLAN, self._key.namespace, plan.metadata.name, uid=plan.metadata.uid)
        except NotFoundError:
            return


def why_no_plan(last: Round | None) -> str | None:
    """Why the newest round has no plan; None where it has one."""
    if last is None or last.plan is not None:
        return None
    return "; ".join(last.notes) or last.verdict.reason
