"""Steps against the fake API server and a real cache node: what the world is afterwards, and what is said."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kvtide_cachenode.contract.client import NodeClient
from kvtide_cachenode.contract.messages import CapacityRequest, Desired
from kvtide_operator.act.kubernetes.admin_token import admin_token
from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import InvalidError, NotLeaderError
from kvtide_operator.act.kubernetes.events import MAX_MESSAGE_CHARS, REPEAT_S, Events
from kvtide_operator.act.kubernetes.execute import Ending, Executor
from kvtide_operator.decide.steps import (
    DeleteClaim,
    DeletePod,
    ExpandClaim,
    RecreateSet,
    ResizePod,
    Step,
    TellNode,
)
from kvtide_operator.observe.cluster import claim_state
from kvtide_operator.observe.watch_store import ObjectStore
from kvtide_operator.world.kinds import CLAIM, CONFIG_MAP, POD, STATEFUL_SET, CacheKey
from kvtide_operator.world.owner import owned_by, owner_reference

Recorded = Callable[[str], dict[str, Any]]
NewApi = Callable[..., KubernetesApi]
KEY = CacheKey("f-process", "chat")
UID = "uid-of-chat"
MI = 1 << 20


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore([STATEFUL_SET, POD, CLAIM, CONFIG_MAP], lambda _: None)


@pytest.fixture
def executor(api: KubernetesApi, store: ObjectStore) -> Executor:
    return Executor(api, live=store.get, seen=store.put)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeClient]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0",
        "--admin", "127.0.0.1:0",
        "--dram", "16Mi", "--state-dir", str(tmp_path), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    serving = json.loads(await process.stdout.readline())
    async with NodeClient(f"http://{serving['admin']}") as client:
        yield client
    process.terminate()
    await process.wait()


async def take(executor: Executor, *steps: Step, **nodes: NodeClient) -> list[tuple[Ending, str]]:
    named = {name.replace("_", "-"): client for name, client in nodes.items()}
    return [(outcome.ending, outcome.sentence) for outcome in await executor.take(KEY, UID, steps, named)]


def config_map(**data: str) -> dict[str, Any]:
    owners = [owner_reference("chat", UID)]
    metadata = {"name": "chat-connection", "namespace": "f-process", "ownerReferences": owners}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_children_are_written_when_they_differ_and_only_then(server: Any, executor: Executor) -> None:
    endings = [outcome.ending for outcome in await executor.apply(UID, [config_map(a="1")])]
    endings += [outcome.ending for outcome in await executor.apply(UID, [config_map(a="1")])]
    assert endings == [Ending.DONE, Ending.UNCHANGED]
    assert len(server.requests) == 1
    (changed,) = await executor.apply(UID, [config_map(a="2")])
    assert changed.sentence == "changed ConfigMap chat-connection"
    assert server.of("configmaps")[0]["data"] == {"a": "2"}


async def test_a_child_that_is_being_deleted_is_left_to_go(
    server: Any, executor: Executor, store: ObjectStore
) -> None:
    live = config_map(a="1")
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    store.put(CONFIG_MAP, server.put("configmaps", live))
    (outcome,) = await executor.apply(UID, [config_map(a="2")])
    assert outcome.ending is Ending.STALE
    assert not server.requests


async def test_steps_change_the_world(server: Any, executor: Executor, recorded: Recorded) -> None:
    pod = server.put("pods", recorded("pod-infeasible"))
    claim = server.put("persistentvolumeclaims", recorded("claim-bound"))
    stateful_set = server.put("statefulsets", recorded("statefulset"))
    said = await take(
        executor,
        ResizePod("chat-0", pod["metadata"]["resourceVersion"], 512 * MI),
        ExpandClaim("ssd-chat-0", claim["metadata"]["resourceVersion"], 600 * MI),
    )
    uid = stateful_set["metadata"]["uid"]
    said += await take(executor, RecreateSet(uid, ("chat-0",), ("ssd-chat-0", "gone")))
    assert [ending for ending, _ in said] == [Ending.DONE] * 3, said
    (now,) = server.of("pods")
    assert owned_by(now, {UID}), "handed to the cache before its set goes"
    assert owned_by(server.of("persistentvolumeclaims")[0], {UID})
    (container,) = now["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "512Mi"}
    assert container["resources"]["requests"]["memory"] == "512Mi"
    assert container["resources"]["requests"]["cpu"] == "100m"
    (grown,) = server.of("persistentvolumeclaims")
    assert grown["spec"]["resources"]["requests"]["storage"] == "600Mi"
    asked_s = claim_state(grown, {}).grown_s
    assert asked_s is not None
    assert abs(asked_s - time.time()) < 60
    await take(executor, ResizePod("chat-0", now["metadata"]["resourceVersion"], 512 * MI, 1500))
    assert server.of("pods")[0]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1500m"
    assert not server.of("statefulsets")
    assert ("PATCH", "/api/v1/namespaces/f-process/pods/chat-0/resize") in server.requests


async def test_steps_of_an_older_world_are_left_to_the_next_pass(
    server: Any, executor: Executor, recorded: Recorded
) -> None:
    before = server.put("pods", recorded("pod-infeasible"))
    server.put("persistentvolumeclaims", recorded("claim-bound"))
    said = await take(
        executor,
        ResizePod("chat-0", "1", 512 * MI),
        ExpandClaim("ssd-chat-0", "1", 600 * MI),
        DeletePod("chat-0", "another-uid", "its template changed"),
        RecreateSet("gone"),
    )
    assert [ending for ending, _ in said] == [Ending.STALE] * 4
    assert server.of("pods") == [before]


async def test_one_failure_does_not_stop_the_others(
    server: Any, executor: Executor, recorded: Recorded
) -> None:
    pod = server.put("pods", recorded("pod-infeasible"))
    claim = server.put("persistentvolumeclaims", recorded("claim-bound"))
    server.faults.append((403, {}))
    said = await take(
        executor,
        ExpandClaim("ssd-chat-0", claim["metadata"]["resourceVersion"], 600 * MI),
        DeletePod("chat-0", pod["metadata"]["uid"], "its template changed"),
        DeleteClaim("ssd-chat-9", "gone"),
        TellNode("chat-7", Desired(1, 1)),
    )
    assert sorted(ending for ending, _ in said[:2]) == [Ending.DONE, Ending.REFUSED]
    assert said[2] == (Ending.DONE, "PersistentVolumeClaim ssd-chat-9 was gone already")
    assert said[3] == (Ending.FAILED, "pod chat-7 has no address yet")


async def test_a_node_is_told(executor: Executor, node: NodeClient) -> None:
    document = Desired(3, 1, CapacityRequest(dram=8 * MI))
    ((ending, sentence),) = await take(executor, TellNode("chat-0", document), chat_0=node)
    assert (ending, sentence) == (Ending.DONE, "told the node in chat-0 generation 1")
    assert (await node.status()).tiers["dram"].capacity_bytes == 8 * MI
    older = Desired(2, 9, CapacityRequest(dram=4 * MI))
    ((ending, sentence),) = await take(executor, TellNode("chat-0", older), chat_0=node)
    assert ending is Ending.REFUSED
    assert "409" in sentence
    assert (await node.status()).tiers["dram"].capacity_bytes == 8 * MI


async def test_a_node_that_is_not_there_has_failed(executor: Executor) -> None:
    async with NodeClient("http://127.0.0.1:9") as nobody:
        ((ending, sentence),) = await take(executor, TellNode("chat-0", Desired(1, 1)), chat_0=nobody)
    assert ending is Ending.FAILED
    assert "cannot be reached" in sentence


class ClosedGate:
    def term(self) -> int:
        raise NotLeaderError("no")

    def check(self, _: int) -> None:
        raise NotLeaderError("no")


async def test_who_lost_the_lease_is_told_so(server: Any, new_api: NewApi, store: ObjectStore) -> None:
    executor = Executor(new_api(gate=ClosedGate()), live=store.get, seen=store.put)
    with pytest.raises(NotLeaderError):
        await executor.apply(UID, [config_map(a="1")])
    with pytest.raises(NotLeaderError):
        await executor.take(
            KEY, UID, [DeletePod("chat-0", "u", "why"), TellNode("chat-7", Desired(1, 1))], {}
        )
    assert not server.requests


def secret_with(token: str) -> dict[str, Any]:
    import base64

    owners = [owner_reference("chat", UID)]
    metadata = {"name": "chat-admin", "namespace": "f-process", "ownerReferences": owners}
    data = {"token": base64.b64encode(token.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


async def test_the_token_is_made_once(server: Any, api: KubernetesApi) -> None:
    both = await asyncio.gather(*(admin_token(api, KEY, UID, "chat-admin", secret_with) for _ in range(2)))
    assert both[0] == both[1]
    assert len(both[0]) >= 40
    assert len(server.of("secrets")) == 1
    server.put("secrets", secret_with("mine"))
    assert await admin_token(api, KEY, UID, "chat-admin", secret_with) == "mine"


async def test_a_secret_without_a_token_is_named_with_the_cure(server: Any, api: KubernetesApi) -> None:
    secret = secret_with("x")
    secret["data"] = {"password": "eA=="}
    server.put("secrets", secret)
    with pytest.raises(InvalidError, match="f-process/chat-admin: has no readable key 'token'; delete it"):
        await admin_token(api, KEY, UID, "chat-admin", secret_with)


async def test_a_sentence_is_one_event_however_often_it_is_said(server: Any, api: KubernetesApi) -> None:
    now_s = 1_800_000_000.0
    events = Events(api, "me", wall=lambda: now_s)
    about = {"apiVersion": "kvtide.dev/v1alpha1", "kind": "TieredCache"}
    about["metadata"] = {"name": "chat", "namespace": "d", "uid": "u"}  # type: ignore[assignment]  # a dictionary
    for _ in range(50):
        await events.record(about, "ResizeDeferred", "chat-1 waits for memory", kind="Warning")
    (event,) = server.of("events")
    assert (event["count"], event["type"], event["involvedObject"]["uid"]) == (1, "Warning", "u")
    assert len(server.requests) == 1
    now_s += REPEAT_S
    await events.record(about, "ResizeDeferred", "chat-1 waits for memory", kind="Warning")
    (event,) = server.of("events")
    assert event["count"] == 51
    # Another process, or this one after it forgot, goes on counting.
    now_s += 1
    await Events(api, "other", wall=lambda: now_s).record(
        about, "ResizeDeferred", "chat-1 waits for memory", kind="Warning"
    )
    (event,) = server.of("events")
    assert event["count"] == 52
    await events.record(about, "ResizeDeferred", "chat-2 " + "x" * 5000, kind="Warning")
    assert len(server.of("events")) == 2
    assert max(len(event["message"]) for event in server.of("events")) == MAX_MESSAGE_CHARS


async def test_an_event_that_cannot_be_written_hurts_nobody(server: Any, api: KubernetesApi) -> None:
    server.faults.append((403, {}))
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d", "uid": "u"}}
    events = Events(api, "me")
    await events.record(about, "Reason", "a sentence")
    assert not server.of("events")
    await events.record(about, "Reason", "a sentence")
    assert len(server.of("events")) == 1
