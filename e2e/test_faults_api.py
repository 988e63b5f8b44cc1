"""The API server fails the operator now and then: it comes to the same end."""

from pathlib import Path
from typing import Any

import pytest

from e2e.client import new_api
from e2e.faulty import FAILURES, Failure, FaultyApi
from e2e.kubectl import apply, get, kubectl, until
from e2e.operator_process import operator
from e2e.test_process import READY_S, TIER_CLASS, cache, is_ready, no_children
from kvtide_operator.act.kubernetes.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    ThrottledError,
    TimedOutError,
    UnavailableError,
)
from kvtide_operator.world.kinds import CONFIG_MAP

pytestmark = pytest.mark.timeout(240)

FIRST_WRITES = 40
"""More than a new cache takes until it is ready."""
CHILDREN = ("statefulset", "poddisruptionbudget", "networkpolicy", "configmap", "service")


@pytest.mark.parametrize(
    ("failure", "kind", "happened"),
    [
        ("409", ConflictError, False),
        ("429", ThrottledError, False),
        ("500", UnavailableError, False),
        ("lost", UnavailableError, True),
        ("hang", (TimedOutError, UnavailableError), False),
    ],
)
async def test_the_proxy_fails_the_call_that_it_is_told_to(
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Failure,
    kind: type[ApiError],
    happened: bool,
) -> None:
    def config_map(name: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}

    async with FaultyApi(fail_at={2: failure}, hang_s=1.0) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
        api = new_api(attempts=1)
        await api.apply(config_map("one"))
        with pytest.raises(kind):
            await api.apply(config_map("two"))
        if happened:
            await api.get(CONFIG_MAP, namespace, "two")
        else:
            with pytest.raises(NotFoundError):
                await api.get(CONFIG_MAP, namespace, "two")
        await api.apply(config_map("three"))
        api.close()
    assert [seen.failed for seen in proxy.seen if seen.writes] == [False, True, False]


def shape(raw: dict[str, Any]) -> dict[str, Any]:
    """What of an object is the same in every run."""
    spec = dict(raw.get("spec", {}))
    for field in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
        spec.pop(field, None)
    data = {
        name: text.replace(raw["metadata"]["namespace"], "NS") for name, text in raw.get("data", {}).items()
    }
    return {"labels": raw["metadata"].get("labels"), "spec": spec, "data": data}


async def settled(
    folder: Path, namespace: str, image: str, monkeypatch: pytest.MonkeyPatch, **faults: Any
) -> Any:
    """Run an operator behind a proxy until a new cache is ready; its children, and the calls."""
    await apply(TIER_CLASS, cache(namespace, image))
    async with FaultyApi(**faults) as proxy:
        with monkeypatch.context() as patch:
            patch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(folder / "kubeconfig")))
            started = operator(folder, namespace)
            running = await started.__aenter__()
        try:
            assert running.process.returncode is None
            await until("the cache to be ready", lambda: is_ready(namespace), READY_S)
            children = {
                kind: shape(await get(kind, "chat", namespace)) for kind in CHILDREN if kind != "configmap"
            }
            children["configmap"] = shape(await get("configmap", "chat-connection", namespace))
            return children, list(proxy.seen)
        finally:
            await started.__aexit__(None, None, None)
            await kubectl("-n", namespace, "delete", "tieredcache", "chat")


@pytest.mark.parametrize("failure", FAILURES[:4])
async def test_every_other_write_fails_and_the_cache_becomes_the_same(
    namespace: str, node_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """All first attempts of single steps fail once; retries and later passes have to make up for it."""
    well, _ = await settled(tmp_path, namespace, node_image, monkeypatch)
    await until("the children to be gone", lambda: no_children(namespace), READY_S)
    faults = dict.fromkeys(range(1, FIRST_WRITES, 2), failure)
    ill, seen = await settled(tmp_path, namespace, node_image, monkeypatch, fail_at=faults)
    assert any(call.failed for call in seen)
    assert ill == well
