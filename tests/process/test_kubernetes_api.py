"""The client of the Kubernetes API: over real HTTP, to a fake server with faults."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvtide_operator.act.kubernetes.api import ATTEMPTS, KubernetesApi
from kvtide_operator.act.kubernetes.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotLeaderError,
    QuotaError,
    ThrottledError,
    TimedOutError,
    UnavailableError,
    error_of,
)
from kvtide_operator.world.kinds import CONFIG_MAP, STATEFUL_SET, TIER_CLASS, TIERED_CACHE

NewApi = Callable[..., KubernetesApi]


def config_map(namespace: str, name: str = "a", **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"kvtide.dev/cache": "chat"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_paths() -> None:
    assert TIERED_CACHE.path() == "/apis/kvtide.dev/v1alpha1/tieredcaches"
    assert TIERED_CACHE.path("team", "chat", "status") == (
        "/apis/kvtide.dev/v1alpha1/namespaces/team/tieredcaches/chat/status"
    )
    assert CONFIG_MAP.path("team") == "/api/v1/namespaces/team/configmaps"
    assert TIER_CLASS.path("team", "ssd") == "/apis/kvtide.dev/v1alpha1/tierclasses/ssd"
    assert STATEFUL_SET.api_version == "apps/v1"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "Unauthorized", ForbiddenError),
        (403, 'pods "x" is forbidden: User "y" cannot patch resource', ForbiddenError),
        (403, 'pods "x" is forbidden: exceeded quota: q, requested: memory=1Gi', QuotaError),
        (
            403,
            'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
            QuotaError,
        ),
        (404, "not found", NotFoundError),
        (409, "modified", ConflictError),
        (422, "spec.x: Forbidden: field is immutable", InvalidError),
        (400, "bad", InvalidError),
        (429, "later", ThrottledError),
        (500, "etcdserver: request timed out", UnavailableError),
        (500, "failed to create typed patch object: .spec.x: field not declared in schema", InvalidError),
        (503, "shutting down", UnavailableError),
        (504, "timeout", TimedOutError),
    ],
)
def test_an_answer_is_an_error_of_its_class(status: int, message: str, kind: type[ApiError]) -> None:
    error = error_of("PATCH /x", status, {"message": message}, None)
    assert type(error) is kind
    assert str(error) == f"PATCH /x: {message}"


@pytest.mark.parametrize("fault", [(500, {}), (503, {}), (429, {}), (429, {"Retry-After": "0"}), None])
async def test_what_may_pass_is_tried_again(
    server: Any, api: KubernetesApi, fault: tuple[int, dict[str, str]] | None
) -> None:
    server.faults.append(fault)
    await api.apply(config_map("default", one="1"))
    assert server.of("configmaps")[0]["data"] == {"one": "1"}
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(403, ForbiddenError), (409, ConflictError), (422, InvalidError)]
)
async def test_what_does_not_pass_is_not_tried_again(
    server: Any, api: KubernetesApi, status: int, kind: type[ApiError]
) -> None:
    server.faults.append((status, {}))
    with pytest.raises(kind):
        await api.apply(config_map("default"))
    assert len(server.requests) == 1
    assert not server.of("configmaps")


async def test_attempts_are_bounded(server: Any, api: KubernetesApi) -> None:
    server.faults.extend([(500, {})] * 10)
    with pytest.raises(UnavailableError):
        await api.get(CONFIG_MAP, "default", "a")
    assert len(server.requests) == ATTEMPTS


async def test_a_server_that_asks_for_minutes_is_left_to_the_next_pass(
    server: Any, api: KubernetesApi
) -> None:
    server.faults.append((429, {"Retry-After": "120"}))
    with pytest.raises(ThrottledError) as caught:
        await api.get(CONFIG_MAP, "default", "a")
    assert caught.value.retry_after_s == 120
    assert len(server.requests) == 1


async def test_nobody_there_is_unavailable(server: Any, new_api: NewApi) -> None:
    api = new_api(attempts=1)
    server.url = ""
    await server.__aexit__(None, None, None)
    with pytest.raises((UnavailableError, TimedOutError)):
        await api.get(CONFIG_MAP, "default", "a")


async def test_long_lists_come_in_pages(server: Any, api: KubernetesApi) -> None:
    for number in range(1203):
        server.put("configmaps", config_map("default", f"c{number}"))
    items, _ = await api.list(CONFIG_MAP)
    assert len({item["metadata"]["name"] for item in items}) == 1203
    assert len(server.requests) == 3


async def test_apply_if_changed_writes_once(server: Any, api: KubernetesApi) -> None:
    manifest = config_map("default", one="1")
    live = await api.create(manifest)
    writes = len(server.requests)
    assert await api.apply_if_changed(manifest, live) is None
    assert len(server.requests) == writes
    assert await api.apply_if_changed(config_map("default", one="2"), live) is not None


class Gate:
    """Open in term 1; ``closes_after`` more looks at it, then closed."""

    def __init__(self, closes_after: int) -> None:
        self.left = closes_after

    def term(self) -> int:
        self.check(1)
        return 1

    def check(self, term: int) -> None:
        assert term == 1
        self.left -= 1
        if self.left < 0:
            raise NotLeaderError("closed")


@pytest.mark.parametrize("looks", [0, 1])
async def test_who_does_not_lead_writes_nothing_and_may_read(
    server: Any, new_api: NewApi, looks: int
) -> None:
    live = server.put("configmaps", config_map("default", one="1"))
    for write in (
        lambda api: api.apply(config_map("default", one="2")),
        lambda api: api.apply_status({**config_map("default"), "status": {}}),
        lambda api: api.patch(CONFIG_MAP, "default", "a", {"data": {}}),
        lambda api: api.patch_by_key(CONFIG_MAP, "default", "a", {"data": {}}),
        lambda api: api.create(config_map("default", "b")),
        lambda api: api.replace(live),
        lambda api: api.delete(CONFIG_MAP, "default", "a", uid=live["metadata"]["uid"]),
    ):
        with pytest.raises(NotLeaderError):
            await write(new_api(gate=Gate(looks)))
    assert not server.requests
    assert server.of("configmaps") == [live]
    assert await new_api(gate=Gate(0)).get(CONFIG_MAP, "default", "a") == live


async def test_a_retry_passes_the_gate_again(server: Any, new_api: NewApi) -> None:
    server.faults.append((500, {}))
    with pytest.raises(NotLeaderError):
        await new_api(gate=Gate(2)).apply(config_map("default"))
    assert len(server.requests) == 1


async def test_calls_are_bounded_by_threads_and_all_get_through(server: Any, api: KubernetesApi) -> None:
    await asyncio.gather(*(api.apply(config_map("default", f"c{number}")) for number in range(60)))
    assert len(server.of("configmaps")) == 60
