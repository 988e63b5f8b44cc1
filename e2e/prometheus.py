"""A real Prometheus that scrapes the pods of one namespace."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from tests.ports import free_port

from e2e.kubectl import KubectlError, kubectl, until
from e2e.packages import PROMETHEUS, need

READY_S: Final = 30.0
SCRAPE_S: Final = 1
LIST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Where it answers, and its process."""

    url: str
    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def prometheus(
    folder: Path, namespace: str, *also: str, port_name: str = "admin"
) -> AsyncIterator["Prometheus"]:
    """Scrape the port of that name of all pods, and other addresses, each second, from this machine.

    Every series has the labels ``namespace`` and ``pod``. Debian's Prometheus cannot look for pods by itself:
    it reads from a file where they are, and that file is kept up here.
    """
    need(PROMETHEUS)
    targets = folder / "targets.json"
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"},
        "scrape_configs": [
            {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)]}]},
            {"job_name": "others", "static_configs": [{"targets": list(also)}]},
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    address = f"127.0.0.1:{free_port()}"
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}", "--log.level=warn",
            stdout=output, stderr=output,
        )  # fmt: skip
    listing = asyncio.create_task(_list(targets, namespace, port_name))
    try:
        async with aiohttp.ClientSession() as http:

            async def is_ready() -> bool:
                if process.returncode is not None:
                    raise RuntimeError(f"Prometheus has ended: {log.read_text()[-1000:]}")
                try:
                    async with http.get(f"http://{address}/-/ready") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until("Prometheus to be ready", is_ready, READY_S)
        yield Prometheus(f"http://{address}", process)
    finally:
        listing.cancel()
        await asyncio.wait([listing])
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _list(targets: Path, namespace: str, port_name: str) -> None:
    while True:
        with suppress(KubectlError):  # the API server may be what a test takes away
            pods = json.loads(await kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
            found = [target for pod in pods for target in _targets(pod, namespace, port_name)]
            new = targets.with_suffix(".new")
            new.write_text(json.dumps(found))
            new.rename(targets)
        await asyncio.sleep(LIST_S)


def _targets(pod: dict[str, Any], namespace: str, port_name: str) -> list[dict[str, Any]]:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    labels = {"namespace": namespace, "pod": pod["metadata"]["name"]}
    return [
        {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": labels}
        for port in ports
        if port.get("name") == port_name and "podIP" in pod["status"]
    ]
