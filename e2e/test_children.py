"""The objects of a cache on a real cluster: stored as applied, restricted, ready, and gone with it."""

import asyncio
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio

from e2e.client import new_api
from e2e.kubectl import kubectl
from kvtide_cachenode.contract.client import NodeClient
from kvtide_operator.act.kubernetes.api import FIELD_MANAGER, KubernetesApi
from kvtide_operator.act.kubernetes.children import admin_secret, admin_secret_name, children, wanted_hash
from kvtide_operator.act.kubernetes.compare import differs
from kvtide_operator.act.kubernetes.errors import NotFoundError
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec
from kvtide_operator.observe.cluster import pod_state
from kvtide_operator.world.kinds import (
    CLAIM,
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    TIERED_CACHE,
    Kind,
    kind_of,
)  # fmt: skip

ROOT: Final = Path(__file__).parents[1]
MIB: Final = 1 << 20
MEMORY_BYTES: Final = 256 * MIB
CLAIM_BYTES: Final = 320 * MIB  # XFS needs 300 MiB
TOKEN: Final = "token-of-the-test"
PASSWORD: Final = "password-of-the-test"
LIMIT_S: Final = 90.0

SECURITY: Final[dict[str, dict[str, Any]]] = {
    "open": {},
    "password": {"auth": {"secretRef": {"name": "password"}}},
    "tls": {"tls": {"secretRef": {"name": "certs"}}},
    "mutual tls": {
        "auth": {"secretRef": {"name": "password"}},
        "tls": {"secretRef": {"name": "certs"}, "clients": "Required"},
    },
}


async def until(what: str, holds: Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S) -> float:
    """Poll until it holds; returns after how many seconds."""
    began = time.monotonic()
    while not await holds():
        if time.monotonic() - began > limit_s:
            pytest.fail(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(0.2)
    return time.monotonic() - began


@dataclass(frozen=True)
class World:
    """A namespace under Pod Security *restricted*, with the Secrets that the caches name."""

    api: KubernetesApi
    namespace: str
    image: str
    certificates: Path

    async def make(self, security: dict[str, Any], *, ssd: bool = False, name: str = "chat") -> "Cache":
        """Create a TieredCache and its token."""
        capacity = {"initial": "64Mi", "min": "32Mi", "max": "1Gi"}
        tiers = [{"name": "dram", "medium": "DRAM", "classes": ["dram"], "capacity": capacity}]
        if ssd:
            tiers.append(
                {"name": "ssd", "medium": "SSD", "classes": ["loop"], "capacity": capacity | {"min": "0"}}
            )
        manifest = {
            "apiVersion": "kvtide.dev/v1alpha1",
            "kind": "TieredCache",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "model": {"name": "meta-llama/Llama-3.1-8B-Instruct"},
                "engine": {"gpuHour": "2.50", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
                "tiers": tiers,
                "nodes": {
                    "replicas": {"min": 1},
                    "template": {"image": self.image, "cpu": "0.05"},
                },
                "security": security,
            },
        }
        stored = await self.api.create(manifest)
        cache = Cache(self, TieredCache.model_validate(manifest), stored["metadata"]["uid"])
        await self.api.create(admin_secret(cache.model, cache.uid, TOKEN))
        return cache


@dataclass(frozen=True)
class Cache:
    """A cache, and its nodes as their clients see them."""

    world: World
    model: TieredCache
    uid: str

    def objects(self, replicas: int = 1, claim_bytes: int = CLAIM_BYTES) -> list[dict[str, Any]]:
        ssd_class = None
        if self.model.spec.ssd is not None:
            price, speed = {"capacity": [{"perGiBHour": "0.0001"}]}, {"base": "100M"}
            ssd_class = TierClass.model_validate(
                {
                    "metadata": {"name": "loop"},
                    "spec": {"medium": "SSD", "price": price, "speed": {"read": speed, "write": speed}},
                }
            ).spec
        return children(
            self.model,
            self.uid,
            SetSpec(replicas, MEMORY_BYTES, None if ssd_class is None else claim_bytes),
            ssd_class=ssd_class,
            operator_namespace="kvtide-system",
            has_service_monitors=False,
        )

    async def apply(self, **sizes: int) -> None:
        for each in self.objects(**sizes):
            await self.world.api.apply(each)

    async def pod(self, ordinal: int = 0) -> dict[str, Any]:
        return await self.world.api.get(POD, self.world.namespace, f"{self.model.metadata.name}-{ordinal}")

    async def ready(self, *, other_than: str = "") -> dict[str, Any]:
        async def is_ready() -> bool:
            try:
                seen = pod_state(await self.pod())
            except NotFoundError:
                return False
            return seen.ready and not seen.deleting and seen.uid != other_than

        await until("the node is ready", is_ready)
        return await self.pod()

    def _files(self) -> dict[str, str]:
        tls = self.model.spec.security.tls
        if tls is None:
            return {}
        folder = self.world.certificates
        own = {"cert": folder / "tls.crt", "key": folder / "tls.key"} if tls.clients == "Required" else {}
        return {name: str(path) for name, path in ({"ca": folder / "ca.crt"} | own).items()}

    def client(self, pod: dict[str, Any]) -> redis.asyncio.Redis:
        files = self._files()
        tls = {
            "ssl": bool(files),
            "ssl_ca_certs": files.get("ca"),
            "ssl_certfile": files.get("cert"),
            "ssl_keyfile": files.get("key"),
            "ssl_check_hostname": False,
        }
        password = PASSWORD if self.model.spec.security.auth is not None else None
        return redis.asyncio.Redis(
            host=pod["status"]["podIP"],
            password=password,
            **(tls if files else {}),  # type: ignore[arg-type]
        )

    def admin(self, pod: dict[str, Any]) -> NodeClient:
        files = self._files()
        context = None
        if files:
            context = ssl.create_default_context(cafile=files["ca"])
            context.check_hostname = False
            if "cert" in files:
                context.load_cert_chain(files["cert"], files["key"])
        scheme = "https" if files else "http"
        return NodeClient(f"{scheme}://{pod['status']['podIP']}:7379", TOKEN, context)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", *key, "-subj", "/CN=chat", "-keyout", "tls.key", "-out", "tls.csr")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    openssl("x509", "-req", "-in", "tls.csr", *signed, "-out", "leaf.crt")
    # The chain with its authority, by which nodes know each other.
    (folder / "tls.crt").write_bytes((folder / "leaf.crt").read_bytes() + (folder / "ca.crt").read_bytes())
    return folder


@pytest.fixture
async def world(namespace: str, node_image: str, certificates: Path) -> AsyncIterator[World]:
    crds = str(ROOT / "crds")
    await kubectl("apply", "--server-side", "--force-conflicts", "--filename", crds)
    await kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", crds)
    api = new_api()
    secrets = {
        "password": {"password": PASSWORD.encode()},
        "certs": {name: (certificates / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")},
    }
    for name, files in secrets.items():
        data = {key: b64encode(text).decode() for key, text in files.items()}
        metadata = {"name": name, "namespace": namespace}
        await api.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    yield World(api, namespace, node_image, certificates)
    api.close()


@pytest.mark.parametrize("ssd", [False, True], ids=["dram", "ssd"])
@pytest.mark.parametrize("security", list(SECURITY))
async def test_a_second_apply_changes_nothing(world: World, security: str, ssd: bool) -> None:
    cache = await world.make(SECURITY[security], ssd=ssd)
    for manifest in cache.objects(replicas=0):
        first = await world.api.apply(manifest)

        async def unchanged(manifest: dict[str, Any] = manifest) -> bool:
            # Its controller may write a status at any moment: some pair of applies is not interrupted by it.
            one, other = await world.api.apply(manifest), await world.api.apply(manifest)
            return bool(one["metadata"]["resourceVersion"] == other["metadata"]["resourceVersion"])

        await until(f"{manifest['kind']} is as it was applied", unchanged, 10.0)
        live = await world.api.get(kind_of(manifest), world.namespace, manifest["metadata"]["name"])
        assert live["metadata"].get("generation") == first["metadata"].get("generation")
        assert not differs(manifest, live, FIELD_MANAGER)
        assert await world.api.apply_if_changed(manifest, live) is None


@pytest.mark.parametrize("security", list(SECURITY))
async def test_a_restricted_pod_is_ready_and_serves(world: World, security: str) -> None:
    cache = await world.make(SECURITY[security])
    await cache.apply()
    pod = await cache.ready()
    seen = pod_state(pod)
    assert seen.restarts == 0
    assert seen.template_hash == wanted_hash(cache.model, has_ssd=False)
    assert seen.memory_bytes == seen.wanted_memory_bytes == MEMORY_BYTES
    assert pod["status"]["qosClass"] == "Burstable"
    async with cache.client(pod) as client:
        assert await client.set("key", b"value")
        assert await client.get("key") == b"value"
    async with cache.admin(pod) as admin:
        status = await admin.status()
    assert status.ready
    dram = status.tiers["dram"]
    assert 0 < dram.capacity_bytes == dram.max_bytes < MEMORY_BYTES


async def test_no_one_comes_in_without_password_or_token(world: World) -> None:
    cache = await world.make(SECURITY["password"])
    await cache.apply()
    pod = await cache.ready()
    async with redis.asyncio.Redis(host=pod["status"]["podIP"]) as stranger:
        with pytest.raises(redis.AuthenticationError):
            await stranger.get("key")
    async with NodeClient(f"http://{pod['status']['podIP']}:7379", "wrong") as admin:
        with pytest.raises(Exception, match="401"):
            await admin.status()


async def test_what_the_ssd_holds_outlives_pod_and_set(world: World) -> None:
    cache = await world.make(SECURITY["open"], ssd=True)
    await cache.apply()
    pod = await cache.ready()
    async with cache.admin(pod) as admin:
        await admin.set_capacity(dram_bytes=32 * MIB, ssd_bytes=100 * MIB)
        cluster = (await admin.status()).cluster
    async with cache.client(pod) as client:
        for number in range(20):
            await client.set(f"key-{number}", bytes([number]) * MIB)
    await world.api.delete(POD, world.namespace, "chat-0", uid=pod["metadata"]["uid"])
    pod = await cache.ready(other_than=pod["metadata"]["uid"])

    # A claim's size cannot be changed in the set: it is made anew around its pods and claims.
    claim = await world.api.get(CLAIM, world.namespace, "ssd-chat-0")
    old = await world.api.get(STATEFUL_SET, world.namespace, "chat")
    await world.api.delete(STATEFUL_SET, world.namespace, "chat", uid=old["metadata"]["uid"], orphan=True)
    await until("the set is gone", lambda: is_gone(world, STATEFUL_SET, "chat"))
    await cache.apply(claim_bytes=CLAIM_BYTES + 64 * MIB)

    async def adopted() -> bool:
        new = await world.api.get(STATEFUL_SET, world.namespace, "chat")
        owners = [
            (await world.api.get(kind, world.namespace, name))["metadata"]
            .get("ownerReferences", [{}])[0]
            .get("uid")
            for kind, name in ((POD, "chat-0"), (CLAIM, "ssd-chat-0"))
        ]
        return owners == [new["metadata"]["uid"]] * 2

    await until("the new set has the pod and the claim", adopted)
    assert (await cache.pod())["metadata"]["uid"] == pod["metadata"]["uid"]
    kept = await world.api.get(CLAIM, world.namespace, "ssd-chat-0")
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    async with cache.client(pod) as client:
        values = [await client.get(f"key-{number}") for number in range(20)]
    assert [value[:1] for value in values if value] == [bytes([number]) for number in range(20)]
    async with cache.admin(pod) as admin:
        status = await admin.status()
    assert (status.tiers["dram"].capacity_bytes, status.tiers["ssd"].capacity_bytes) == (32 * MIB, 100 * MIB)
    assert status.cluster is not None
    assert cluster is not None
    assert status.cluster.node_id == cluster.node_id


async def test_a_smaller_set_lets_go_of_its_claims(world: World) -> None:
    cache = await world.make(SECURITY["open"], ssd=True)
    await cache.apply(replicas=2)

    async def two() -> bool:
        claims, _ = await world.api.list(CLAIM, world.namespace)
        return [claim["status"]["phase"] for claim in claims] == ["Bound", "Bound"]

    await until("two claims are bound", two)
    await cache.apply(replicas=1)
    await until("the second claim is gone", lambda: is_gone(world, CLAIM, "ssd-chat-1"))
    assert await world.api.get(CLAIM, world.namespace, "ssd-chat-0")


async def test_everything_goes_with_the_cache_while_no_operator_runs(world: World) -> None:
    cache = await world.make(SECURITY["open"], ssd=True)
    await cache.apply()
    await cache.ready()
    await world.api.delete(TIERED_CACHE, world.namespace, "chat", uid=cache.uid)
    made = [(kind_of(each), each["metadata"]["name"]) for each in cache.objects()]
    made += [(SECRET, admin_secret_name(cache.model)), (POD, "chat-0"), (CLAIM, "ssd-chat-0")]
    assert {kind for kind, _ in made} >= {
        SERVICE,
        CONFIG_MAP,
        DISRUPTION_BUDGET,
        NETWORK_POLICY,
        STATEFUL_SET,
    }
    for kind, name in made:
        await until(f"{kind.kind} {name} is gone", lambda k=kind, n=name: is_gone(world, k, n))  # type: ignore[misc]


async def is_gone(world: World, kind: Kind, name: str) -> bool:
    try:
        await world.api.get(kind, world.namespace, name)
    except NotFoundError:
        return True
    return False
