"""A small API server, a client of it, and objects recorded at a real one.

The server does what of Kubernetes the operator's client relies on, and faults on demand. It keeps versions,
uids and preconditions, server-side apply of one manager, merge patches and subresources. It knows no schemas,
defaults, rights or watches. `test_api_contract.py` says what it must do; the end-to-end tests ask the same
of a real API server.
"""

import asyncio
import copy
import json
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import pytest
from aiohttp import web
from kubernetes.client import Configuration
from prometheus_client import CollectorRegistry
from tests.process.turn import Turn

from kvtide_operator.act.kubernetes.api import ApiMetrics, Gate, KubernetesApi, OpenGate
from kvtide_operator.act.kubernetes.transport import Transport

Recorded = Callable[[str], dict[str, Any]]
Key = tuple[str, str, str]
Json = dict[str, Any]


NO_FAULT: tuple[int, dict[str, str]] = (0, {})
MALFORMED: tuple[int, dict[str, str]] = (200, {})


class FakeApi:
    """``faults`` are answered to the next calls, one each, before they are looked at: (status, headers),
    None for no answer at all, `MALFORMED` for what is no object, `NO_FAULT` to let a call through.
    ``requests`` are (verb, path) of all that arrived.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self.faults: deque[tuple[int, dict[str, str]] | None] = deque()
        self.requests: list[tuple[str, str]] = []
        self.unknown = {"nothings"}
        self.version = 100
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def put(self, plural: str, raw: Json) -> Json:
        """Store an object as it is, as somebody else would."""
        return self._store((plural, raw["metadata"].get("namespace", ""), raw["metadata"]["name"]), raw)

    def of(self, plural: str) -> list[Json]:
        return [raw for (kind, _, _), raw in self.objects.items() if kind == plural]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        fault = self.faults.popleft() if self.faults else NO_FAULT
        if fault != NO_FAULT:
            if fault == MALFORMED:
                return web.Response(text="<html>a proxy says hello</html>", content_type="text/html")
            if fault is None:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            return _status(fault[0], "a fault that the test asked for", fault[1])
        if request.path == "/api/v1/query":
            return _readings(request)
        plural, namespace, name, subresource = _parts(request.path)
        if plural in self.unknown:
            return _status(404, "the server could not find the requested resource")
        body = await request.text()
        said: Json = json.loads(body) if body else {}
        if request.content_type.endswith("yaml") and re.search(r"\\ud[89ab]", body):
            return _status(400, "yaml: found invalid Unicode character escape code")
        if not name:
            return self._create(plural, namespace, said) if said else self._list(plural, namespace, request)
        return self._one(request, (plural, namespace, name), subresource, said)

    def _list(self, plural: str, namespace: str, request: web.Request) -> web.Response:
        label = request.query.get("labelSelector", "")
        selected = request.query.get("fieldSelector", "")
        fields = [part.split("=", 1) for part in selected.split(",") if part]
        found = [
            raw
            for (kind, where, _), raw in self.objects.items()
            if kind == plural
            and (not namespace or where == namespace)
            and (not label or label in raw["metadata"].get("labels", {}))
            and all(_field(raw, path) == value for path, value in fields)
        ]
        items = [{k: v for k, v in raw.items() if k not in ("kind", "apiVersion")} for raw in found]
        limit = int(request.query.get("limit", "500"))
        start = int(request.query.get("continue") or 0)
        more = str(start + limit) if start + limit < len(items) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": metadata, "items": items[start : start + limit]})

    def _create(self, plural: str, namespace: str, said: Json) -> web.Response:
        key = (plural, namespace, said["metadata"]["name"])
        if key in self.objects:
            return _status(409, f'{plural} "{key[2]}" already exists')
        return web.json_response(self._store(key, said), status=201)

    def _one(self, request: web.Request, key: Key, subresource: str, said: Json) -> web.Response:
        live = self.objects.get(key)
        apply = request.content_type == "application/apply-patch+yaml"
        if live is None:
            if apply and "uid" in said.get("metadata", {}):
                return _status(409, "uid mismatch: no existing object was found")
            if apply and not subresource:
                return web.json_response(self._store(key, said), status=201)
            return _status(404, f'{key[0]} "{key[2]}" not found')
        wanted = said.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != live["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified; apply your changes to the latest version")
        match request.method:
            case "GET":
                return web.json_response(live)
            case "PUT":
                return web.json_response(self._store(key, said))
            case "PATCH":
                uid = said.get("metadata", {}).get("uid", live["metadata"]["uid"])
                if uid != live["metadata"]["uid"]:
                    return _status(422, "metadata.uid: Invalid value: field is immutable")
                part = {"status": said.get("status")} if subresource == "status" else said
                return web.json_response(self._store(key, _merged(live, part)))
        uid = said.get("preconditions", {}).get("uid")
        if uid is not None and uid != live["metadata"]["uid"]:
            return _status(409, "the UID in the precondition does not match the UID in record")
        del self.objects[key]
        self.version += 1
        return web.json_response({"kind": "Status", "status": "Success"})

    def _store(self, key: Key, raw: Json) -> Json:
        live = self.objects.get(key)
        kept = live["metadata"] if live else {"uid": str(uuid4()), "resourceVersion": ""}
        made = copy.deepcopy(raw)
        made["metadata"] |= {"uid": kept["uid"], "resourceVersion": kept["resourceVersion"]}
        if made == live:
            return live
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = made
        return made


def _readings(request: web.Request) -> web.Response:
    """What a Prometheus says of engines that are well: each reading that is asked for is a number."""
    at_s = request.query["time"]
    names = re.findall(r'"reading", "(\w+)"', request.query["query"]) or [""]
    rows = [{"metric": {"reading": name}, "value": [float(at_s), at_s]} for name in names]
    return web.json_response({"status": "success", "data": {"resultType": "vector", "result": rows}})


def _field(raw: Json, path: str) -> str:
    found: Any = raw
    for name in path.split("."):
        found = found.get(name, {})
    return str(found)


def _parts(path: str) -> tuple[str, str, str, str]:
    """Plural, namespace, name and subresource of a path; empty where it has none."""
    rest = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    return plural, namespace, name, subresource


def _merged(live: Any, patch: Any) -> Any:
    if isinstance(live, list) and isinstance(patch, list) and all("name" in item for item in patch):
        mine = {item["name"]: item for item in patch}
        return [_merged(item, mine.get(item["name"], {})) for item in live]
    if not isinstance(live, dict) or not isinstance(patch, dict):
        return patch
    merged = dict(live)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(live[name], value) if name in live else value
    return merged


def _status(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": status, "message": message}
    return web.json_response(body, status=status, headers=headers)


@pytest.fixture
def recorded() -> Recorded:
    """Objects as Kubernetes 1.35 said them, with a real kubelet and a real volume driver behind it."""

    def load(name: str) -> dict[str, Any]:
        text = Path(__file__).with_name("recorded").joinpath(f"{name}.json").read_text("utf-8")
        loaded: dict[str, Any] = json.loads(text)
        return loaded

    return load


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        yield fake


@pytest.fixture
async def new_api(server: FakeApi) -> AsyncIterator[Callable[..., KubernetesApi]]:
    made: list[KubernetesApi] = []

    def make(gate: Gate | None = None, **more: Any) -> KubernetesApi:
        configuration: Any = Configuration()
        configuration.host = server.url
        configuration.retries = False
        api = KubernetesApi(
            Transport(configuration, threads=4),
            gate=gate or OpenGate(),
            metrics=ApiMetrics(CollectorRegistry()),
            random=random.Random(1).random,
            **more,
        )
        made.append(api)
        return api

    yield make
    for api in made:
        api.close()


@pytest.fixture
def api(new_api: Callable[..., KubernetesApi]) -> KubernetesApi:
    return new_api()


@pytest.fixture
async def new_turn(
    server: FakeApi, new_api: Callable[..., KubernetesApi]
) -> AsyncIterator[Callable[..., Turn]]:
    made: list[Turn] = []

    def make(**cache: Any) -> Turn:
        made.append(Turn(server, new_api(attempts=1), **cache))
        return made[-1]

    yield make
    await asyncio.gather(*(turn.turns.cache.close() for turn in made))


@pytest.fixture
def namespace() -> str:
    return "default"


@pytest.fixture
def owner_uid() -> str:
    """The uid of a TieredCache ``chat`` in the namespace."""
    return "6a5e0a53-6f41-4d3f-9d0a-8f4d9f2f7a11"
