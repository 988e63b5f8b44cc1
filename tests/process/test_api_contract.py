"""What an API server does that the operator counts on; the end-to-end tests ask the same of a real one."""

import asyncio
from typing import Any

import pytest

from kvtide_operator.act.kubernetes.api import KubernetesApi, exists
from kvtide_operator.act.kubernetes.errors import ConflictError, NotFoundError
from kvtide_operator.world.kinds import CONFIG_MAP, LEASE, POD, Kind


def config_map(namespace: str, name: str = "a", **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"kvtide.dev/cache": "chat"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_apply_creates_then_changes_then_leaves_alone(api: KubernetesApi, namespace: str) -> None:
    made = await api.apply(config_map(namespace, one="1"))
    assert made["data"] == {"one": "1"}
    changed = await api.apply(config_map(namespace, one="2"))
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    again = await api.apply(config_map(namespace, one="2"))
    assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]


async def test_any_text_is_taken_as_it_is(api: KubernetesApi, namespace: str) -> None:
    text = 'größe 🚀 \t\n\x01\x7f\x85\u2028\ufeff\ufffe\uffff"\\'
    for _ in range(2):
        assert (await api.apply(config_map(namespace, one=text)))["data"] == {"one": text}
    made = await api.create(config_map(namespace, name="b", one=text))
    changed = await api.patch(CONFIG_MAP, namespace, "b", {"data": {"two": text}})
    assert (made["data"], changed["data"]) == ({"one": text}, {"one": text, "two": text})


async def test_what_is_not_there_is_not_found(api: KubernetesApi, namespace: str) -> None:
    with pytest.raises(NotFoundError, match="not found"):
        await api.get(CONFIG_MAP, namespace, "none")
    with pytest.raises(NotFoundError):
        await api.patch(CONFIG_MAP, namespace, "none", {"data": {"x": "y"}})
    with pytest.raises(NotFoundError):
        await api.delete(CONFIG_MAP, namespace, "none", uid="u")


async def test_what_is_there_cannot_be_created(api: KubernetesApi, namespace: str) -> None:
    await api.create(config_map(namespace))
    with pytest.raises(ConflictError, match="already exists"):
        await api.create(config_map(namespace))


async def test_an_old_version_is_not_written(api: KubernetesApi, namespace: str) -> None:
    old = await api.create(config_map(namespace, one="1"))
    new = await api.replace({**old, "data": {"one": "2"}})
    with pytest.raises(ConflictError, match="modified"):
        await api.replace({**old, "data": {"one": "3"}})
    version = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    with pytest.raises(ConflictError, match="modified"):
        await api.patch(CONFIG_MAP, namespace, "a", {**version, "data": {"one": "3"}})
    assert (await api.get(CONFIG_MAP, namespace, "a"))["data"] == new["data"] == {"one": "2"}


async def test_of_two_writers_of_one_version_one_is_refused(api: KubernetesApi, namespace: str) -> None:
    spec = {"holderIdentity": "", "leaseDurationSeconds": 15, "leaseTransitions": 1}
    metadata = {"name": "l", "namespace": namespace}
    lease = await api.create(
        {"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
    )
    results = await asyncio.gather(
        *(api.replace({**lease, "spec": {**spec, "holderIdentity": f"h{i}"}}) for i in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 3


async def test_only_the_object_of_that_uid_is_deleted(api: KubernetesApi, namespace: str) -> None:
    made = await api.create(config_map(namespace))
    with pytest.raises(ConflictError, match="UID"):
        await api.delete(CONFIG_MAP, namespace, "a", uid="another")
    await api.delete(CONFIG_MAP, namespace, "a", uid=made["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await api.get(CONFIG_MAP, namespace, "a")


async def test_lists_are_of_a_namespace_and_a_label(api: KubernetesApi, namespace: str) -> None:
    made = await api.create(config_map(namespace))
    other = config_map(namespace, "b")
    del other["metadata"]["labels"]
    await api.create(other)
    items, version = await api.list(CONFIG_MAP, namespace, "kvtide.dev/cache")
    assert [item["metadata"]["name"] for item in items] == ["a"]
    assert (items[0]["kind"], items[0]["apiVersion"]) == ("ConfigMap", "v1")
    assert int(version) >= int(made["metadata"]["resourceVersion"])


async def test_a_kind_is_known_or_not(api: KubernetesApi, namespace: str) -> None:
    assert await exists(api, POD)
    assert not await exists(api, Kind("kvtide.dev", "v1", "Nothing", "nothings"))
