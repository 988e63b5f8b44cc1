"""What events and lists make of the store, in whatever order they come."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_operator.act.kubernetes.errors import ApiError, UnavailableError
from kvtide_operator.decide.converge.view import seats_of
from kvtide_operator.observe.watch_relist import Relist, selector_of
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.world.kinds import (
    CACHE_LABEL,
    CACHE_PLAN,
    CLAIM,
    CONFIG_MAP,
    POD,
    STATEFUL_SET,
    STORAGE_CLASS,
    TIER_CLASS,
    TIERED_CACHE,
    CacheKey,
)
from kvtide_operator.world.owner import owner_reference

Recorded = Callable[[str], dict[str, Any]]
CHAT = CacheKey("f-process", "chat")
UID = "uid-of-chat"
KINDS = (TIERED_CACHE, TIER_CLASS, CACHE_PLAN, STATEFUL_SET, POD, CLAIM, STORAGE_CLASS)


def named(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version), **metadata}}


def child(name: str, version: int) -> dict[str, Any]:
    return named(name, version, labels={CACHE_LABEL: "chat"})


def new_store() -> tuple[ObjectStore, list[CacheKey]]:
    woken: list[CacheKey] = []
    return ObjectStore(KINDS, woken.append), woken


def owned_set(recorded: Recorded) -> dict[str, Any]:
    raw = recorded("statefulset")
    raw["metadata"]["ownerReferences"] = [owner_reference("chat", UID)]
    return raw


def test_the_world_of_a_cache(recorded: Recorded) -> None:
    store, woken = new_store()
    store.put(STATEFUL_SET, owned_set(recorded))
    store.put(POD, recorded("pod-infeasible"))
    store.put(CLAIM, recorded("claim-bound"))
    store.put(STORAGE_CLASS, recorded("storageclass"))
    world = store.world(CHAT, UID, 12.0)
    assert world.at_s == 12.0
    assert world.stateful_set is not None
    assert world.stateful_set.replicas == 1
    assert [pod.name for pod in world.pods] == ["chat-0"]
    assert [(claim.name, claim.expandable) for claim in world.claims] == [("ssd-chat-0", True)]
    assert set(woken) == {CHAT}
    assert store.world(CacheKey("f-process", "other"), UID, 0.0).pods == ()
    assert store.world(CacheKey("other", "chat"), UID, 0.0).stateful_set is None


def test_pods_are_in_the_order_of_their_numbers_and_strangers_are_none(recorded: Recorded) -> None:
    store, _ = new_store()
    store.put(STATEFUL_SET, owned_set(recorded))
    for name in ("chat-10", "chat-2", "chat-debug", "chat", "chat-eu-1", "other-0"):
        raw = recorded("pod-infeasible")
        raw["metadata"]["name"] = name
        store.put(POD, raw)
    assert [pod.name for pod in store.world(CHAT, UID, 0.0).pods] == ["chat-2", "chat-10"]


def test_nothing_of_a_namesake_is_in_the_world(recorded: Recorded) -> None:
    """Labels and names are as ours; the set's controller, or the pod's and the claim's, is another."""
    store, _ = new_store()
    store.put(STATEFUL_SET, recorded("statefulset"))  # nobody's
    store.put(POD, recorded("pod-infeasible"))
    store.put(CLAIM, recorded("claim-bound"))
    world = store.world(CHAT, UID, 0.0)
    assert (world.stateful_set, world.pods, world.claims) == (None, (), ())
    store, _ = new_store()
    store.put(STATEFUL_SET, owned_set(recorded))
    for kind, name in ((POD, "pod-infeasible"), (CLAIM, "claim-bound")):
        raw = recorded(name)
        raw["metadata"]["ownerReferences"][0]["uid"] = "another-set"
        store.put(kind, raw)
    world = store.world(CHAT, UID, 0.0)
    assert world.stateful_set is not None
    assert (world.pods, world.claims) == ((), ())


def test_what_was_handed_to_the_cache_is_known_while_its_set_is_made_anew(recorded: Recorded) -> None:
    store, _ = new_store()
    for kind, name in ((POD, "pod-infeasible"), (CLAIM, "claim-bound")):
        raw = recorded(name)
        raw["metadata"]["ownerReferences"] = [owner_reference("chat", UID, controller=False)]
        store.put(kind, raw)
    world = store.world(CHAT, UID, 0.0)
    assert world.stateful_set is None
    assert [pod.name for pod in world.pods] == ["chat-0"]
    assert [claim.name for claim in world.claims] == ["ssd-chat-0"]


def test_a_claim_that_goes_with_our_pod_is_ours(recorded: Recorded) -> None:
    store, _ = new_store()
    store.put(STATEFUL_SET, owned_set(recorded))
    pod, claim = recorded("pod-infeasible"), recorded("claim-bound")
    claim["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Pod", "name": "chat-0", "uid": pod["metadata"]["uid"]}
    ]
    store.put(POD, pod)
    store.put(CLAIM, claim)
    assert [each.name for each in store.world(CHAT, UID, 0.0).claims] == ["ssd-chat-0"]


def test_an_object_that_cannot_be_read_is_named_and_the_rest_goes_on(recorded: Recorded) -> None:
    store, _ = new_store()
    store.put(STATEFUL_SET, owned_set(recorded))
    for name in ("chat-0", "chat-1"):
        pod, claim = recorded("pod-infeasible"), recorded("claim-bound")
        pod["metadata"]["name"], claim["metadata"]["name"] = name, f"ssd-{name}"
        if name == "chat-1":
            pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "much"
            claim["spec"]["resources"]["requests"]["storage"] = "more"
        store.put(POD, pod)
        store.put(CLAIM, claim)
    world = store.world(CHAT, UID, 0.0)
    assert [claim.name for claim in world.claims] == ["ssd-chat-0"]
    assert [sentence.partition(":")[0] for sentence in world.unreadable] == [
        "Pod chat-1 cannot be read",
        "PersistentVolumeClaim ssd-chat-1 cannot be read",
    ]
    (seat,) = seats_of(world, "chat", [1])
    assert seat.unknown, "a pod that may run holds entries"
    assert seat.why_silent == world.unreadable[0]


def test_events_wake_the_caches_that_they_concern() -> None:
    store, woken = new_store()
    cache = {**named("chat", 1), "spec": {"tiers": [{"name": "ssd", "classes": ["pl1"]}]}}
    store.put(TIERED_CACHE, cache)
    store.put(TIERED_CACHE, {**named("docs", 2), "spec": {"tiers": []}})
    assert woken == [CacheKey("d", "chat"), CacheKey("d", "docs")]
    woken.clear()
    store.put(TIER_CLASS, {"metadata": {"name": "pl1", "resourceVersion": "3"}})
    store.put(TIER_CLASS, {"metadata": {"name": "pl2", "resourceVersion": "4"}})
    store.put(CACHE_PLAN, named("p", 5, ownerReferences=[{"kind": "TieredCache", "name": "docs"}]))
    store.put(POD, child("chat-0", 6))
    store.put(POD, named("stranger", 7))
    assert woken == [CacheKey("d", "chat"), CacheKey("d", "docs"), CacheKey("d", "chat")]


def test_an_event_that_says_nothing_new_wakes_nobody() -> None:
    store, woken = new_store()
    assert store.put(POD, child("chat-0", 5))
    woken.clear()
    assert not store.put(POD, child("chat-0", 5))
    assert not store.put(POD, child("chat-0", 4))
    assert not woken
    # Versions are numbers: "10" is after "9".
    assert store.put(POD, child("chat-0", 10))


def test_a_list_forgets_what_was_deleted_unseen_and_counts_it() -> None:
    store, woken = new_store()
    store.replace(POD, [child("chat-0", 5), child("chat-1", 6)], "6")
    assert store.missed(POD) == 0  # all of it is news before the first list
    woken.clear()
    store.mark_listed(POD)
    store.replace(POD, [child("chat-0", 5)], "9")
    assert [raw["metadata"]["name"] for raw in store.every(POD)] == ["chat-0"]
    assert woken == [CacheKey("d", "chat")]
    assert store.missed(POD) == 1


def test_a_list_of_one_namespace_leaves_the_others() -> None:
    store, _ = new_store()
    store.put(POD, child("chat-0", 5))
    store.put(POD, {"metadata": {"name": "x", "namespace": "e", "resourceVersion": "6"}})
    store.replace(POD, [], "9", "e")
    assert [raw["metadata"]["name"] for raw in store.every(POD)] == ["chat-0"]


def test_managers_of_objects_that_we_do_not_apply_are_not_kept(recorded: Recorded) -> None:
    store, _ = new_store()
    raw = child("chat-0", 5)
    raw["metadata"]["managedFields"] = [{}]
    store.put(POD, raw)
    store.put(STATEFUL_SET, recorded("statefulset"))
    assert "managedFields" not in store.every(POD)[0]["metadata"]
    assert "managedFields" in store.every(STATEFUL_SET)[0]["metadata"]


@given(st.data())
def test_events_and_lists_that_overtake_each_other_end_at_the_truth(data: st.DataObject) -> None:
    """Events arrive in order, lists from any time in between; the last list is of the end."""
    truth: dict[str, int] = {}
    happened: list[Callable[[ObjectStore], object]] = []
    lists: list[tuple[int, list[dict[str, Any]]]] = []
    for version in range(1, data.draw(st.integers(2, 12))):
        name = data.draw(st.sampled_from(["chat-0", "chat-1"]))
        if name in truth and data.draw(st.booleans()):
            del truth[name]
            raw = child(name, version)
            happened.append(lambda store, raw=raw: store.drop(POD, raw))
        else:
            truth[name] = version
            raw = child(name, version)
            happened.append(lambda store, raw=raw: store.put(POD, raw))
        lists.append((version, [child(n, v) for n, v in truth.items()]))
    store, _ = new_store()
    for event in happened:
        event(store)
        if data.draw(st.booleans()):
            version, items = data.draw(st.sampled_from(lists))
            store.replace(POD, items, str(version))
    version, items = lists[-1]
    store.replace(POD, items, str(version))
    assert {
        raw["metadata"]["name"]: int(raw["metadata"]["resourceVersion"]) for raw in store.every(POD)
    } == truth


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until it holds; the test's own limit ends it."""
    while not holds():
        await asyncio.sleep(0)


class Lister:
    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.asked: list[tuple[str, str | None, str]] = []

    async def list(
        self, kind: Any, namespace: str | None = None, label_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        self.asked.append((kind.plural, namespace, label_selector))
        if kind.plural in self.broken:
            raise UnavailableError("GET", "away")
        return [named("chat", 3)] if kind == TIERED_CACHE else [], "7"


async def test_children_are_listed_by_their_label_and_kinds_of_ours_all() -> None:
    assert selector_of(POD) == selector_of(CONFIG_MAP) == CACHE_LABEL
    assert selector_of(TIERED_CACHE) == selector_of(STORAGE_CLASS) == ""
    store, _ = new_store()
    lister = Lister()
    lister.broken = {"pods"}
    relist = Relist(store, lister, namespaces=["d", "e"], failures=ApiError, random=lambda: 0.5)
    running = asyncio.create_task(relist.run())
    wanted = {("pods", "d", CACHE_LABEL), ("tieredcaches", "e", ""), ("storageclasses", None, "")}
    await until(lambda: bool(relist.problems) and wanted <= set(lister.asked))
    assert not store.synced
    assert list(relist.problems) == [POD]
    running.cancel()


async def test_what_fails_is_asked_again_and_then_all_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvtide_operator.observe.watch_relist.RETRY_S", 0.01)
    store, woken = new_store()
    lister = Lister()
    lister.broken = {"pods"}
    relist = Relist(store, lister, namespaces=[], failures=ApiError, random=lambda: 0.5)
    running = asyncio.create_task(relist.run())
    await until(lambda: [plural for plural, *_ in lister.asked].count("pods") > 1)  # and once more in vain
    lister.broken.clear()
    await relist.synced()
    assert not relist.problems
    assert store.synced
    assert store.caches() == [CacheKey("d", "chat")]
    assert woken == [CacheKey("d", "chat")]
    running.cancel()
