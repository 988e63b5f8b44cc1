"""Ways in to nodes: certificates that were rotated are read again; useless ones say what is missing."""

import asyncio
import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kvtide_cachenode.contract.client import NodeClient, NodeRefused
from kvtide_operator.act.kubernetes.api import KubernetesApi
from kvtide_operator.act.kubernetes.errors import InvalidError
from kvtide_operator.api.manifest import Manifest, ManifestError
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.reconcile import access
from kvtide_operator.reconcile.access import Nodes
from kvtide_operator.world.cluster import PodState
from kvtide_operator.world.kinds import CacheKey
from kvtide_operator.world.owner import owner_reference

KEY = CacheKey("f-process", "chat")
UID = "uid-of-chat"
POD = PodState("chat-0", 0, "u", "1", "127.0.0.1", True, False, "h", 0, 1 << 28, 1 << 28)


def cache() -> TieredCache:
    tier = {
        "name": "dram",
        "medium": "DRAM",
        "classes": ["dram"],
        "capacity": {"initial": 1, "min": 1, "max": 9},
    }
    return TieredCache.model_validate(
        {
            "metadata": {"name": KEY.name, "namespace": KEY.namespace},
            "spec": {
                "model": {"name": "m", "kvBytesPerToken": 1024},
                "engine": {"gpuHour": "2", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
                "tiers": [tier],
                "nodes": {"replicas": {"min": 1}},
                "security": {"tls": {"secretRef": {"name": "certs"}}},
            },
        }
    )


def certificate(folder: Path) -> dict[str, str]:
    """A self-signed certificate in a new folder, as the data of a Secret."""
    folder.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=node", "-days", "2", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {name: b64encode((folder / name).read_bytes()).decode() for name in ("tls.crt", "tls.key")}


def put(server: Any, name: str, data: dict[str, str]) -> None:
    owners = [owner_reference(KEY.name, UID)]
    metadata = {"name": name, "namespace": KEY.namespace, "ownerReferences": owners}
    server.put("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})


@asynccontextmanager
async def node(folder: Path, token: Path, port: int = 0) -> AsyncIterator[int]:
    """A real node with the certificate of a folder; the port of its admin API."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0",
        "--admin", f"127.0.0.1:{port}", "--admin-token-file", str(token), "--dram", "16Mi",
        "--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(json.loads(await process.stdout.readline())["admin"].rpartition(":")[2])
    finally:
        process.terminate()
        await process.wait()


async def test_rotated_certificates_are_read_when_a_node_does_not_answer(
    server: Any, api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = certificate(tmp_path / "old"), certificate(tmp_path / "new")
    token = tmp_path / "token"
    token.write_text("secret" * 8)
    put(server, "chat-admin", {"token": b64encode(token.read_bytes()).decode()})
    put(server, "certs", old)
    nodes = Nodes(api, KEY)
    try:
        async with node(tmp_path / "old", token) as port:
            monkeypatch.setattr(access, "ADMIN_PORT", port)
            for _ in range(3):
                await nodes.follow(cache(), UID, (POD,))
                states, silent = await nodes.ask()
                assert (list(states), silent) == (["chat-0"], {})
            assert server.requests.count(("GET", "/api/v1/namespaces/f-process/secrets/certs")) == 1
        async with node(tmp_path / "new", token, port):
            _, silent = await nodes.ask()
            assert "certificate" in silent["chat-0"].lower()
            put(server, "certs", new)
            await nodes.follow(cache(), UID, (POD,))
            assert (await nodes.ask())[1], "not asked for again at once"
            monkeypatch.setattr(access, "REREAD_S", 0.0)
            put(server, "certs", {"tls.crt": "", "tls.key": ""})
            await nodes.follow(cache(), UID, (POD,))
            assert (await nodes.ask())[1], "what is of no use is not taken"
            put(server, "certs", new)
            await nodes.follow(cache(), UID, (POD,))
            states, silent = await nodes.ask()
            assert (list(states), silent) == (["chat-0"], {})
    finally:
        await nodes.close()


def in_the_clear() -> TieredCache:
    body = cache().model_dump(mode="json", by_alias=True)
    body["spec"]["security"] = {}
    return TieredCache.model_validate({"metadata": body["metadata"], "spec": body["spec"]})


@pytest.fixture
async def plain_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A real node without TLS; the file that its token is in."""
    token = tmp_path / "token"
    token.write_text("first" * 8)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kvtide_cachenode", "serve", "--listen", "127.0.0.1:0",
        "--admin", "127.0.0.1:0", "--admin-token-file", str(token), "--dram", "16Mi",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    port = int(json.loads(await process.stdout.readline())["admin"].rpartition(":")[2])
    monkeypatch.setattr(access, "ADMIN_PORT", port)
    monkeypatch.setattr(access, "TOKEN_REREAD_S", 0.0)
    yield token
    process.terminate()
    await process.wait()


async def test_a_rotated_token_is_taken_up_while_the_node_has_the_old_one(
    server: Any, api: KubernetesApi, plain_node: Path
) -> None:
    put(server, "chat-admin", {"token": b64encode(plain_node.read_bytes()).decode()})
    nodes = Nodes(api, KEY)
    try:
        for token in (b"first" * 8, b"second" * 8):
            put(server, "chat-admin", {"token": b64encode(token).decode()})
            await nodes.follow(in_the_clear(), UID, (POD,))
            states, silent = await nodes.ask()
            assert (list(states), silent) == (["chat-0"], {})
        plain_node.write_text("second" * 8)  # the kubelet renews the file
        async with NodeClient(nodes.clients["chat-0"].url, "second" * 8) as renewed:
            while True:
                try:
                    await renewed.status()
                    break
                except NodeRefused:
                    await asyncio.sleep(0.1)
        states, silent = await nodes.ask()
        assert (list(states), silent) == (["chat-0"], {})
    finally:
        await nodes.close()


async def test_a_deleted_token_is_made_anew_and_the_old_one_serves_meanwhile(
    server: Any, api: KubernetesApi, plain_node: Path
) -> None:
    put(server, "chat-admin", {"token": b64encode(plain_node.read_bytes()).decode()})
    nodes = Nodes(api, KEY)
    try:
        await nodes.follow(in_the_clear(), UID, (POD,))
        server.objects.clear()
        await nodes.follow(in_the_clear(), UID, (POD,))
        (secret,) = server.of("secrets")
        assert b64decode(secret["data"]["token"]) != plain_node.read_bytes()
        states, silent = await nodes.ask()
        assert (list(states), silent) == (["chat-0"], {})
    finally:
        await nodes.close()


async def test_a_secret_without_certificates_is_named_with_the_cure(server: Any, api: KubernetesApi) -> None:
    put(server, "chat-admin", {"token": b64encode(b"secret" * 8).decode()})
    put(server, "certs", {"tls.key": ""})
    nodes = Nodes(api, KEY)
    with pytest.raises(
        ManifestError, match=r"Secret certs lacks 'tls.crt'; give it tls.crt, tls.key and ca.crt"
    ):
        await nodes.follow(cache(), UID, (POD,))


async def test_a_secret_of_metrics_without_the_key_is_named(server: Any, api: KubernetesApi) -> None:
    put(server, "prometheus-token", {"password": b64encode(b"x").decode()})
    document = cache().model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"]["metrics"] = {
        "prometheus": {"url": "http://127.0.0.1:1", "authSecretRef": {"name": "prometheus-token"}}
    }
    measured = TieredCache.model_validate(document)
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(
            InvalidError,
            match="prometheus-token: has no readable key",
        ):
            await access.metrics_of(api, measured, threads)
        put(server, "prometheus-token", {"token": b64encode(b"x").decode()})
        assert await access.metrics_of(api, measured, threads) is not None


async def test_keys_of_a_history_are_read_and_what_lacks_is_named(server: Any, api: KubernetesApi) -> None:
    document = cache().model_dump(mode="json", by_alias=True, exclude_none=True)
    assert await access.history_keys(api, cache()) is None
    document["spec"]["history"] = {"url": "s3://bucket/x", "secretRef": {"name": "keys"}}
    kept = TieredCache.model_validate(document)
    put(server, "keys", {"AWS_ACCESS_KEY_ID": b64encode(b"id").decode()})
    with pytest.raises(
        ManifestError, match=r"Secret keys, .* has no text under AWS_SECRET_ACCESS_KEY; it may"
    ):
        await access.history_keys(api, kept)
    data = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden\n", "other": "x"}
    put(server, "keys", {key: b64encode(text.encode()).decode() for key, text in data.items()})
    keys = await access.history_keys(api, kept)
    assert keys == {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden"}
    assert "hidden" not in repr(Manifest(Path(), kept, {}, keys))
