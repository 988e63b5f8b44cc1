"""What the cluster of our own must be able to do for the other tests to mean anything."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from e2e.kube import cluster as own
from e2e.kube import control_plane, daemons
from e2e.kube.places import HOST_ADDRESS, KUBECONFIG
from e2e.kubectl import KubectlError, apply, get, kubectl, until
from e2e.node_pod import manifest, start_node
from e2e.prometheus import prometheus
from kvtide_cachenode.contract.sizing import limit_for

MIB: Final = 1 << 20
LIMIT_BYTES: Final = limit_for(32 * MIB)
# The API server's side of an expansion is at once; the kubelet looks at a volume once a minute.
EXPANSION_S: Final = 150.0

pytestmark = pytest.mark.timeout(300)


def own_only() -> None:
    if os.environ["KUBECONFIG"] != str(KUBECONFIG):
        pytest.skip("KUBECONFIG names another cluster")


def claim(namespace: str, size: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def test_a_scheduler_that_has_ended_is_noticed_and_started_again() -> None:
    own_only()
    daemons.stop("kube-scheduler", signal.SIGKILL)
    assert not own.is_up(with_node=True)
    assert own.up(with_node=True) == KUBECONFIG
    assert daemons.pid("kube-scheduler") is not None
    assert own.is_up(with_node=True)


async def test_volume_grows_under_a_running_pod(namespace: str, node_image: str) -> None:
    pod = manifest(namespace, "node", node_image, LIMIT_BYTES)
    pod["spec"]["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "data", "mountPath": "/data"})
    await apply(claim(namespace, "300Mi"), pod)
    in_pod = ("-n", namespace, "exec", "node", "--")

    async def file_system_mib() -> int:
        return int((await kubectl(*in_pod, "df", "--output=size", "-BM", "/data")).split()[-1].rstrip("M"))

    before: int = await until("the pod to run", file_system_mib, 60.0)
    await kubectl(*in_pod, "sh", "-c", "echo kept > /data/file")
    await kubectl("-n", namespace, "patch", "pvc", "data", "--patch", json.dumps(claim(namespace, "400Mi")))

    async def has_grown() -> bool:
        return await file_system_mib() > before + 80

    await until("the file system to grow", has_grown, EXPANSION_S)
    assert await kubectl(*in_pod, "cat", "/data/file") == "kept\n"
    (status,) = (await get("pod", "node", namespace))["status"]["containerStatuses"]
    assert status["restartCount"] == 0


async def test_pods_reach_services_and_this_machine_and_nothing_else(namespace: str, node_image: str) -> None:
    own_only()
    pod = await start_node(namespace, "node", node_image, limit_bytes=LIMIT_BYTES)
    await kubectl("-n", namespace, "label", "pod", "node", "app=node")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "node", "namespace": namespace},
        "spec": {"selector": {"app": "node"}, "ports": [{"port": 80, "targetPort": 7379}]},
    }
    await apply(service)
    address = (await get("service", "node", namespace))["spec"]["clusterIP"]

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"http://{address}/readyz") as answer:
                return answer.ok
        except aiohttp.ClientError:
            return False

    await until("the service to answer this machine", answers, 30.0)

    async def connect(host: str, port: int) -> str:
        script = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        try:
            return await kubectl("-n", namespace, "exec", "node", "--", "python3", "-c", script)
        except KubectlError as error:
            return str(error)

    listener = await asyncio.start_server(lambda _, writer: writer.close(), HOST_ADDRESS, 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert await connect(HOST_ADDRESS, port) == ""
    assert await connect(address, 80) == "", "a pod may be its own service's client"
    assert await connect(pod.ip, 7379) == ""
    assert "unreachable" in await connect("192.0.2.1", 443)


async def test_prometheus_scrapes_pods(namespace: str, node_image: str, tmp_path: Path) -> None:
    pod = manifest(namespace, "node", node_image, LIMIT_BYTES)
    pod["spec"]["containers"][0]["ports"] = [{"name": "admin", "containerPort": 7379}]
    await apply(pod)
    async with (
        prometheus(tmp_path, namespace) as running,
        aiohttp.ClientSession() as http,
    ):

        async def scraped() -> list[Any]:
            async with http.get(f"{running.url}/api/v1/query", params={"query": "up == 1"}) as answer:
                found: list[Any] = (await answer.json())["data"]["result"]
                return found

        (series,) = await until("the pod to be scraped", scraped, 60.0)
        assert (series["metric"]["namespace"], series["metric"]["pod"]) == (namespace, "node")


async def test_api_server_is_started_again(namespace: str) -> None:
    own_only()
    before = daemons.pid("kube-apiserver")
    await asyncio.to_thread(daemons.stop, "kube-apiserver", signal.SIGKILL)
    assert not control_plane.is_ready()
    daemons.start_again("kube-apiserver")

    async def is_ready() -> bool:
        return await asyncio.to_thread(control_plane.is_ready)

    await until("the API server to be ready", is_ready, 60.0)
    assert daemons.pid("kube-apiserver") != before
    assert (await get("namespace", namespace, namespace))["status"]["phase"] == "Active"
