"""Two operators over one cache: one looks after it, the other says so and waits, and is never locked out."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.process.turn import KEY, Turn

from kvtide_operator.act.kubernetes.lease import DURATION_S, HIGHEST_TERM
from kvtide_operator.reconcile.leadership import LOOK_S

NewTurn = Callable[..., Turn]


def lease(server: Any, release: str, at: int = 0) -> None:
    """A Lease as its holder renews it."""
    metadata = {"name": "kvtide-operator", "namespace": release}
    spec = {"holderIdentity": f"{release}_1", "leaseDurationSeconds": 15, "renewTime": str(at)}
    server.put(
        "leases",
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec},
    )


def cache(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.objects["tieredcaches", *KEY]
    return found


def by(server: Any) -> dict[str, str]:
    found: dict[str, str] = cache(server)["status"]["lookedAfterBy"]
    return found


@pytest.fixture
async def two(server: Any, new_turn: NewTurn) -> Turn:
    """An operator that finds a cache which another one, ``one``, looks after."""
    lease(server, "one")
    first = new_turn(release="one")
    await first.take()
    await first.take()
    assert by(server) == {"release": "one", "lease": "one/kvtide-operator"}
    return new_turn(release="two")


async def test_the_other_leaves_it_alone_and_says_who_leads(server: Any, two: Turn) -> None:
    before = cache(server)
    for at in range(10):
        two.now_s += LOOK_S
        lease(server, "one", at)
        await two.take()
    assert cache(server) == before
    assert two.turns.cache.manifest is None, "and no round plans"
    (said,) = two.warnings()
    assert "release one looks after this cache, by the Lease one/kvtide-operator" in said
    assert "uninstall one of the two" in said


async def test_it_follows_when_the_lease_has_run_out_and_not_before(server: Any, two: Turn) -> None:
    await two.take()
    two.now_s += DURATION_S - 1
    await two.take()
    assert by(server)["release"] == "one"
    two.now_s += LOOK_S
    await two.take()
    assert by(server) == {"release": "two", "lease": "two/kvtide-operator"}
    await two.take()
    assert two.turns.cache.manifest is not None


async def test_it_follows_at_once_when_the_lease_is_gone(server: Any, two: Turn) -> None:
    del server.objects["leases", "one", "kvtide-operator"]
    await two.take()
    assert by(server)["release"] == "two"


@pytest.mark.parametrize("fault", [(403, {}), (500, {}), None], ids=["forbidden", "broken", "no answer"])
async def test_a_lease_that_cannot_be_looked_at_is_one_that_lives(server: Any, two: Turn, fault: Any) -> None:
    before = cache(server)
    server.faults.append(fault)
    await two.take()
    assert cache(server) == before
    assert server.requests[-2][1].endswith("/leases/kvtide-operator")


async def test_of_two_that_claim_it_at_once_one_gets_it(server: Any, new_turn: NewTurn) -> None:
    one, two = new_turn(release="one"), new_turn(release="two")
    lease(server, "one")
    await one.take()
    await two.take()  # its watch has not told yet
    assert by(server)["release"] == "one"
    two.hear(cache(server))
    await two.take()
    assert by(server)["release"] == "one"


def test_a_lockout_says_the_cure_and_ends_unless_no_term_is_higher(two: Turn) -> None:
    leads = two.turns.cache.hands.leads
    said = leads.deposed(7)
    assert "nodes follow term 7 of another leader, and the Lease two/kvtide-operator is at 1" in said
    assert two.outgrown == [7]
    assert "delete the pods one after the other" in leads.deposed(HIGHEST_TERM)
    assert two.outgrown == [7]
