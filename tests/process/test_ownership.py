"""Nothing of others is touched: what has one of our names without our controller reference stays as it is.

The end-to-end tests ask the same of a real API server.
"""

from typing import Any

import pytest

from kvtide_operator.act.kubernetes.admin_token import admin_token
from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.children import admin_secret, children
from kvtide_operator.act.kubernetes.errors import ConflictError
from kvtide_operator.act.kubernetes.execute import Ending, Executor
from kvtide_operator.api.manifest import ManifestError
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.world.kinds import CHILD_KINDS, CONFIG_MAP, SECRET, CacheKey, Kind, kind_of

NAME = "chat"


# Owners of kinds that no cluster knows: what belongs to one that is gone is collected.
WIZARD = {"apiVersion": "example.com/v1", "kind": "Wizard", "name": "web", "uid": "w", "controller": True}
OTHER_CACHE = {
    "apiVersion": "kvtide.dev/v9",
    "kind": "TieredCache",
    "name": NAME,
    "uid": "d2c4a9b8-0000-4000-8000-000000000000",
    "controller": True,
}


def cache_in(namespace: str) -> TieredCache:
    tier = {"name": "dram", "medium": "DRAM", "classes": ["dram"]}
    spec = {
        "model": {"name": "m", "kvBytesPerToken": 1024},
        "engine": {"gpuHour": "2", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
        "tiers": [{**tier, "capacity": {"initial": "64Mi", "min": "64Mi", "max": "1Gi"}}],
        "nodes": {"replicas": {"min": 1}},
    }
    return TieredCache.model_validate({"metadata": {"name": NAME, "namespace": namespace}, "spec": spec})


def manifests(namespace: str, uid: str, replicas: int = 0) -> list[dict[str, Any]]:
    """Of every kind of child that any cluster has."""
    wanted = SetSpec(replicas, 256 << 20, None)
    return children(
        cache_in(namespace),
        uid,
        wanted,
        ssd_class=None,
        operator_namespace=namespace,
        has_service_monitors=False,
    )


def theirs(manifest: dict[str, Any], controller: dict[str, Any] | None) -> dict[str, Any]:
    """Somebody else's object of the same kind and name; even its labels are like ours."""
    owners = {"ownerReferences": [controller]} if controller else {}
    metadata = {
        **{key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"},
        "annotations": {"theirs": "yes"},
        **owners,
    }
    return {**manifest, "metadata": metadata}


def lasting(raw: dict[str, Any]) -> dict[str, Any]:
    """All of an object but what its controller says of it from time to time."""
    managed = [one for one in raw["metadata"].get("managedFields", ()) if not one.get("subresource")]
    metadata = {**raw["metadata"], "managedFields": managed, "resourceVersion": ""}
    return {**raw, "metadata": metadata, "status": None}


async def there(api: KubernetesApi, manifest: dict[str, Any]) -> dict[str, Any]:
    metadata = manifest["metadata"]
    return await api.get(kind_of(manifest), metadata["namespace"], metadata["name"])


def new_executor(api: KubernetesApi) -> tuple[Executor, ObjectStore]:
    store = ObjectStore(CHILD_KINDS, lambda _: None)
    return Executor(api, live=store.get, seen=store.put), store


async def settle(
    api: KubernetesApi, executor: Executor, store: ObjectStore, wanted: list[dict[str, Any]]
) -> None:
    """Passes, until one finds nothing to change; others may write to the objects meanwhile."""
    uid = wanted[0]["metadata"]["ownerReferences"][0]["uid"]
    for _ in range(10):
        for each in wanted:
            store.put(kind_of(each), await there(api, each))
        outcomes = await executor.apply(uid, wanted)
        endings = {outcome.ending for outcome in outcomes}
        if endings == {Ending.UNCHANGED}:
            return
        assert endings <= {Ending.DONE, Ending.UNCHANGED, Ending.STALE}, outcomes
    pytest.fail(f"never at rest: {outcomes}")


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize(
    ("controller", "says"),
    [
        (None, "is nobody's that we know"),
        (WIZARD, "belongs to Wizard web"),
        (OTHER_CACHE, "of uid d2c4a9b8-0000-4000-8000-000000000000"),
    ],
    ids=["nobody's", "somebody's", "a restored cache's"],
)
async def test_what_is_not_ours_stays_as_it_is(
    api: KubernetesApi,
    namespace: str,
    owner_uid: str,
    seen: bool,
    controller: dict[str, Any] | None,
    says: str,
) -> None:
    executor, store = new_executor(api)
    before = [lasting(await api.create(theirs(each, controller))) for each in manifests(namespace, owner_uid)]
    if seen:
        for each in manifests(namespace, owner_uid):
            store.put(kind_of(each), await there(api, each))
    outcomes = await executor.apply(owner_uid, manifests(namespace, owner_uid, replicas=1))
    assert {outcome.ending for outcome in outcomes} == {Ending.FOREIGN}
    assert all(says in outcome.sentence for outcome in outcomes), outcomes
    assert [lasting(await there(api, each)) for each in manifests(namespace, owner_uid)] == before


async def test_what_is_ours_is_made_changed_and_left(
    api: KubernetesApi, namespace: str, owner_uid: str
) -> None:
    executor, store = new_executor(api)
    outcomes = await executor.apply(owner_uid, manifests(namespace, owner_uid))
    assert {outcome.ending for outcome in outcomes} == {Ending.DONE}, outcomes
    await settle(api, executor, store, manifests(namespace, owner_uid))
    changed = manifests(namespace, owner_uid)
    for each in changed:
        each["metadata"]["labels"]["more"] = "yes"
    await settle(api, executor, store, changed)
    live = [await there(api, each) for each in changed]
    assert {each["metadata"]["labels"].get("more") for each in live} == {"yes"}


async def test_a_namesake_that_took_the_place_of_ours_meanwhile_stays_as_it_is(
    api: KubernetesApi, namespace: str, owner_uid: str
) -> None:
    """The watch has not told of it yet: between looking and writing somebody deleted ours and made theirs."""
    executor, _ = new_executor(api)
    ours = next(each for each in manifests(namespace, owner_uid) if each["kind"] == "ConfigMap")
    await executor.apply(owner_uid, [ours])
    made = await there(api, ours)
    await api.delete(CONFIG_MAP, namespace, made["metadata"]["name"], uid=made["metadata"]["uid"])
    before = await api.create(theirs(ours, None))
    (outcome,) = await executor.apply(owner_uid, [{**ours, "data": {"changed": "yes"}}])
    assert outcome.ending is Ending.STALE
    assert await there(api, ours) == before


async def test_one_of_ours_that_is_gone_is_not_made_by_a_change(
    api: KubernetesApi, namespace: str, owner_uid: str
) -> None:
    ours = next(each for each in manifests(namespace, owner_uid) if each["kind"] == "ConfigMap")
    with pytest.raises(ConflictError):
        await api.apply(ours, uid=owner_uid)


async def test_a_secret_under_the_name_of_the_token_is_not_read(
    api: KubernetesApi, namespace: str, owner_uid: str
) -> None:
    secret = admin_secret(cache_in(namespace), owner_uid, "our own")
    before = await api.create(theirs(secret, None))
    name = secret["metadata"]["name"]
    with pytest.raises(ManifestError, match="Secret chat-admin was there before"):
        await admin_token(api, CacheKey(namespace, NAME), owner_uid, name, lambda _: secret)
    assert await api.get(SECRET, namespace, name) == before


def test_every_kind_of_child_is_tried() -> None:
    tried = {kind_of(each) for each in manifests("d", "u")}
    made_by_the_set: set[Kind] = {
        kind for kind in CHILD_KINDS if kind.plural in ("pods", "persistentvolumeclaims")
    }
    assert tried == set(CHILD_KINDS) - made_by_the_set
