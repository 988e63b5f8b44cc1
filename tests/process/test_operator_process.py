"""A replica from its start to its end, with a controller that writes down what happens to it."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from tests.ports import free_port

from kvtide_operator.act.kubernetes.errors import NotLeaderError
from kvtide_operator.main import main
from kvtide_operator.process import OperatorProcess, Options, Surroundings
from kvtide_operator.world.kinds import CONFIG_MAP, POD, TIERED_CACHE, CacheKey

KEY = CacheKey("team", "chat")


class Recorder:
    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.happened: list[str] = []
        self.woken: list[CacheKey] = []
        self.news = asyncio.Event()

    async def start(self, term: int) -> None:
        self.happened.append(f"start with {len(self.around.store.caches())} caches")
        self.term = term
        self.news.set()

    async def stop(self) -> None:
        self.happened.append("stop")
        self.news.set()

    def wake(self, key: CacheKey) -> None:
        self.woken.append(key)
        self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not holds():
                self.news.clear()
                await self.news.wait()


def free_address() -> tuple[str, int]:
    return "127.0.0.1", free_port()


@pytest.fixture
def kubeconfig(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": server.url}}],
        "users": [{"name": "fake", "user": {}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config), "utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
async def replica(kubeconfig: None) -> AsyncIterator[Callable[..., Any]]:
    started: list[OperatorProcess] = []

    async def start(identity: str = "one") -> tuple[OperatorProcess, Recorder, Options]:
        made: list[Recorder] = []
        options = Options(("team",), free_address(), free_address(), "kvtide", identity, "kvtide")
        process = OperatorProcess(options, lambda around: made.append(Recorder(around)) or made[-1])
        started.append(process)
        await process.start()
        return process, made[0], options

    yield start
    for process in started:
        await process.stop()


async def ask(address: tuple[str, int], path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{address[0]}:{address[1]}{path}") as answer,
    ):
        return answer.status, await answer.text()


def cache(version: str = "5") -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "team", "resourceVersion": version, "uid": "u"}
    return {"apiVersion": TIERED_CACHE.api_version, "kind": "TieredCache", "metadata": metadata, "spec": {}}


async def test_it_lists_leads_hears_and_hands_back(server: Any, replica: Callable[..., Any]) -> None:
    server.put("tieredcaches", cache())
    process, controller, options = await replica()
    assert (await ask(options.probes, "/healthz"))[0] == 200
    process.lead()
    await controller.until(lambda: bool(controller.happened))
    assert controller.happened == ["start with 1 caches"]
    (lease,) = server.of("leases")
    assert lease["spec"]["holderIdentity"].startswith("one_")
    assert lease["spec"]["leaseTransitions"] == controller.term
    assert await ask(options.probes, "/readyz") == (200, "lease: ok\nprocess: ok\nlists: ok\n")
    controller.woken.clear()
    pod = {"metadata": {"name": "chat-0", "namespace": "team", "resourceVersion": "900"}}
    pod["metadata"]["labels"] = {"kvtide.dev/cache": "chat"}  # type: ignore[assignment]  # a dictionary
    process.heard(POD, {"type": "ADDED", "object": pod})
    process.heard(POD, {"type": "DELETED", "object": pod})
    assert controller.woken == [KEY, KEY]
    _, metrics = await ask(options.metrics, "/metrics")
    assert "kvtide_operator_leader 1.0" in metrics
    assert 'kvtide_operator_objects{resource="tieredcaches"} 1.0' in metrics
    assert 'kvtide_operator_api_calls_total{code="200",resource="leases",verb="POST"} 1.0' in metrics
    await process.stop()
    assert controller.happened[-1] == "stop"
    assert server.of("leases")[0]["spec"]["holderIdentity"] == ""
    with pytest.raises(NotLeaderError):
        await controller.around.api.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}
        )
    assert not server.of(CONFIG_MAP.plural)
    assert process.failure is None


async def test_only_the_one_that_leads_is_started_and_both_are_ready(
    server: Any, replica: Callable[..., Any]
) -> None:
    one, first, _ = await replica("one")
    one.lead()
    await first.until(lambda: bool(first.happened))
    two, second, options = await replica("two")
    two.lead()
    # The second has looked at the Lease once the server has been asked for it three times.
    async with asyncio.timeout(120):
        while [r for r in server.requests if r[0] == "GET" and "/leases/" in r[1]].__len__() < 2:
            await asyncio.sleep(0.05)
    assert not second.happened
    assert (await ask(options.probes, "/readyz"))[0] == 200
    await one.stop()
    await second.until(lambda: bool(second.happened))
    assert second.term == first.term + 1


async def test_the_other_leads_before_this_one_has_ended_what_is_under_way(
    server: Any, replica: Callable[..., Any]
) -> None:
    one, first, _ = await replica("one")
    two, second, _ = await replica("two")
    may_end = asyncio.Event()

    async def stop() -> None:
        await may_end.wait()

    first.stop = stop
    one.lead()
    await first.until(lambda: bool(first.happened))
    two.lead()
    one.end()
    await second.until(lambda: bool(second.happened))
    assert not one.ended.is_set()
    with pytest.raises(NotLeaderError):
        await first.around.api.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}
        )
    may_end.set()
    await one.ended.wait()


async def test_a_server_that_is_busy_does_not_keep_the_lease_from_being_handed_over(
    server: Any, replica: Callable[..., Any]
) -> None:
    one, first, _ = await replica("one")
    one.lead()
    await first.until(lambda: bool(first.happened))
    server.faults.extend([(500, {}), (429, {"Retry-After": "1"})])
    await one.stop()
    assert server.of("leases")[0]["spec"]["holderIdentity"] == ""


async def test_it_waits_for_its_kinds_and_says_so(
    server: Any,
    replica: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("kvtide_operator.process.KINDS_RETRY_S", 0.05)
    server.unknown |= {"tieredcaches"}
    starting = asyncio.create_task(replica())
    async with asyncio.timeout(120):
        while "apply kvtide's CRDs" not in caplog.text:
            await asyncio.sleep(0.05)
    assert not starting.done()
    server.unknown -= {"tieredcaches"}
    await starting


async def test_a_failed_list_makes_it_unready_with_the_reason(
    server: Any, replica: Callable[..., Any]
) -> None:
    _, _, options = await replica()
    # Lists come at once; whether this one got in before them or not, a kind that is gone stays unlisted.
    server.unknown |= {"pods"}
    other, _, others = await replica("two")
    async with asyncio.timeout(120):
        while "could not find" not in (await ask(others.probes, "/readyz"))[1]:
            await asyncio.sleep(0.05)
    assert (await ask(others.probes, "/readyz"))[0] == 503
    assert (await ask(others.probes, "/healthz"))[0] == 200
    assert other.failure is None
    assert (await ask(options.probes, "/healthz"))[0] == 200


async def test_a_controller_that_breaks_ends_the_process(server: Any, replica: Callable[..., Any]) -> None:
    process, controller, options = await replica()

    async def broken(term: int) -> None:
        raise RuntimeError(f"cannot start in term {term}")

    controller.start = broken
    process.lead()
    async with asyncio.timeout(120):
        await process.ended.wait()
    assert "cannot start in term" in str(process.failure)
    status, said = await ask(options.probes, "/healthz")
    assert status == 503
    assert "leader failed" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lease-namespace", "d", "--metrics", "8080"], "'8080' is not HOST:PORT; write for example"),
        ([], "outside a pod --lease-namespace is needed"),
        (["--lease-namespace", "d"], "found no cluster to work with"),
    ],
)
def test_wrong_starts_get_a_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kvtide_operator.main.set_up", lambda _: None)
    result = CliRunner().invoke(main, arguments, env=dict(os.environ))
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_an_address_that_is_taken_is_named(kubeconfig: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvtide_operator.main.set_up", lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(main, ["--lease-namespace", "d", "--probes", address])
    assert f"cannot listen on {address}" in result.output
    assert result.exit_code == 2
