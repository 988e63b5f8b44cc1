"""For every N, the Nth API call of a reconcile fails in every way: the operator comes to the same state.

One operator looks after one cache for each case, so that all cases run at the same time. Their pods run here.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.faulty import FAILURES, Failure, FaultyApi, Seen
from e2e.kubectl import apply, kubectl, until
from e2e.operator_process import operator
from e2e.stand_in import NOWHERE, StandIn, stand_in
from e2e.test_process import TIER_CLASS, cache

pytestmark = pytest.mark.timeout(400)

UNDISTURBED: Final = ("c-0-1", "c-0-2", "c-0-3")
MOST_CALLS: Final = 27
"""More than it takes to bring up a cache."""
NAMES: Final = (*UNDISTURBED, *(f"c-{how}-{n}" for how in FAILURES for n in range(1, MOST_CALLS + 1)))
CHILDREN: Final = "statefulsets,services,configmaps,poddisruptionbudgets,networkpolicies,secrets,pods"
SETTLED_S: Final = 150.0
STARTED_S: Final = 90.0
LAST_LOOKS: Final = 15
"""A cache that has settled may still say so in its status, or tell what came of its last move."""
_TOOK: Final = re.compile(r"\d+ s\b")
_NAME: Final = re.compile(r"c-[a-z0-9]+-\d+")
# Given by the server, different in every run, or derived from the name.
_PASSING: Final = frozenset(
    {
        "clusterIP", "clusterIPs", "generation", "lastTransitionTime", "nodeName", "observedGeneration",
        "time", "kvtide.dev/template-hash", "controller-revision-hash", "startedAt",
    }
)  # fmt: skip


@dataclass
class FaultyByCache(FaultyApi):
    """Numbers the calls about each cache, and fails the Nth about ``c-FAILURE-N``.

    Attributes:
        numbers: calls about each cache since `begin_anew`.
        failed: what was failed of each since then.
    """

    numbers: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Seen] = field(default_factory=dict)

    def failure_of(self, call: Seen) -> Failure | None:
        named = _NAME.search(f"{call.target.partition('?')[0]}/{call.created}")
        if named is None:
            return None
        name = named[0]
        self.numbers[name] += 1
        failure = next((each for each in FAILURES if name == f"c-{each}-{self.numbers[name]}"), None)
        if failure is not None:
            self.failed[name] = call
        return failure

    def begin_anew(self) -> None:
        """Number from one again."""
        self.numbers.clear()
        self.failed.clear()


async def test_any_call_may_fail_when_a_cache_is_new_and_when_its_size_is_edited(
    definitions: None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyByCache() as proxy, stand_in(namespace) as kubelets:
        await apply(TIER_CLASS, *(cache_named(name, namespace) for name in NAMES))
        with monkeypatch.context() as patch:
            patch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
            running = operator(tmp_path, namespace)
            started = await running.__aenter__()
        try:
            await converged(namespace, "128Mi", kubelets)
            report("a new cache", proxy, at_least=10)
            proxy.begin_anew()
            edit = json.dumps([{"op": "replace", "path": "/spec/tiers/0/capacity/initial", "value": "192Mi"}])
            await kubectl("-n", namespace, "patch", "tieredcache", *NAMES, "--type=json", "--patch", edit)
            await converged(namespace, "192Mi", kubelets)
            report("a resize", proxy, at_least=4)
            assert started.process.returncode is None
        finally:
            await running.__aexit__(None, None, None)


@pytest.mark.parametrize("failure", [each for each in FAILURES if each != "409"])
async def test_every_call_of_a_start_may_fail(
    definitions: None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """The first call to each address fails: lists, watches, the Lease. No server says 409 to a read."""

    @dataclass
    class FaultyAtFirst(FaultyApi):
        known: set[tuple[str, str]] = field(default_factory=set)

        def failure_of(self, call: Seen) -> Failure | None:
            address = (
                call.method + ("watch" if "watch=" in call.target else ""),
                call.target.partition("?")[0],
            )
            first = address not in self.known
            self.known.add(address)
            return failure if first else None

    async with FaultyAtFirst(hang_s=3.0) as proxy, stand_in(namespace):
        await apply(TIER_CLASS, cache_named(UNDISTURBED[0], namespace))
        monkeypatch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
        async with operator(tmp_path, namespace):
            monkeypatch.undo()
            await until("the cache to settle", lambda: all_settled(namespace, "128Mi"), STARTED_S)
    print(f"{failure}: {sum(call.failed for call in proxy.seen)} of {len(proxy.seen)} calls failed")


def cache_named(name: str, namespace: str) -> dict[str, Any]:
    """A cache of one node that runs in this process."""
    made = cache(namespace, "none")
    made["metadata"]["name"] = name
    made["spec"]["nodes"]["template"]["nodeSelector"] = NOWHERE
    made["spec"]["scaling"] = {"mode": "Manual", "interval": "10s"}
    return made


async def converged(namespace: str, size: str, kubelets: StandIn) -> None:
    """Wait until all caches have settled at a size, and compare each with the first undisturbed one."""
    await until("the caches to settle", lambda: all_settled(namespace, size), SETTLED_S)
    for _ in range(LAST_LOOKS):
        found = await state(namespace, kubelets)
        well = found[UNDISTURBED[0]]
        if all(one == well for one in found.values()):
            break
        await asyncio.sleep(1.0)
    assert len(well) == len(CHILDREN.split(",")) + 3  # two Services, the cache's status, its node
    for name in NAMES:
        assert found[name] == well, name


async def all_settled(namespace: str, size: str) -> bool:
    """Whether every cache is served at this size, nothing is under way, and a round has seen it."""
    caches = await listed(namespace, "tieredcaches")
    return all(is_settled(each, size) for each in caches)


def is_settled(raw: Mapping[str, Any], size: str) -> bool:
    status = raw.get("status", {})
    said = {one["type"]: one["status"] for one in status.get("conditions", ())}
    decisions = status.get("decisions", ())
    return (
        (said.get("Ready"), said.get("Reconciling")) == ("True", "False")
        and status["tiers"][0].get("actual") == size
        and bool(decisions)
        and decisions[0]["to"]["dram"] == size
    )


async def state(namespace: str, kubelets: StandIn) -> dict[str, dict[str, Any]]:
    """What each cache consists of, as far as it is the same for all: children, status, and its node."""
    found: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    for raw in await listed(namespace, CHILDREN, "--selector=kvtide.dev/cache"):
        name = raw["metadata"]["labels"]["kvtide.dev/cache"]
        found[name][without_name(raw["kind"] + raw["metadata"]["name"], name)] = shape(raw, name)
    for raw in await listed(namespace, "tieredcaches"):
        name = raw["metadata"]["name"]
        found[name]["status"] = lasting(raw["status"], name)
    for (_, pod), running in kubelets.nodes.items():
        view = running.node.cluster.view
        found[pod.removesuffix("-0")]["node"] = {
            "capacity": running.node.store.capacity_bytes,
            "slots": 0 if view is None else view.topology.owners.count(view.place),
        }
    return found


def shape(raw: Mapping[str, Any], name: str) -> Any:
    """What of a child is the same for all caches."""
    metadata = {part: raw["metadata"].get(part) for part in ("labels", "annotations")}
    owners = [(owner["kind"], owner["name"]) for owner in raw["metadata"]["ownerReferences"]]
    data = sorted(raw["data"]) if raw["kind"] == "Secret" else raw.get("data")
    containers = raw.get("status", {}).get("containerStatuses") if raw["kind"] == "Pod" else None
    parts = {**metadata, "owners": owners, "spec": raw.get("spec"), "data": data, "containers": containers}
    return lasting(parts, name)


def lasting(value: Any, name: str) -> Any:
    """A part of an object without what is passing: the cache's name, how long something took."""
    if isinstance(value, Mapping):
        return {without_name(key, name): lasting(v, name) for key, v in value.items() if key not in _PASSING}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [lasting(each, name) for each in value]
    return _TOOK.sub("N s", without_name(value, name)) if isinstance(value, str) else value


def without_name(text: str, name: str) -> str:
    return text.replace(name, "NAME")


async def listed(namespace: str, kinds: str, *options: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(
        await kubectl("-n", namespace, "get", kinds, *options, "-o", "json")
    )["items"]
    return items


def report(what: str, proxy: FaultyByCache, *, at_least: int) -> None:
    """Print how many calls there were; each of them must have been failed in every way."""
    fewest = min(proxy.numbers[name] for name in UNDISTURBED)
    most = max(proxy.numbers[name] for name in UNDISTURBED)
    by_failure = Counter(name.split("-")[1] for name in proxy.failed)
    print(f"{what}: {fewest} to {most} calls; failed: {dict(by_failure)}")
    assert at_least <= fewest, "that is no reconcile"
    assert most <= MOST_CALLS, "raise MOST_CALLS: not every call has had its turn"
    for failure in FAILURES:
        # Two changes of a status may be written as one: then there is no call for the last numbers.
        assert by_failure[failure] >= fewest - 2, f"{failure}: not every call had its turn"
