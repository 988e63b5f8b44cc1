"""The chart on a real cluster: accepted, and its roles are enough for all the operator does, and no more."""

import asyncio
import copy
import json
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from kubernetes.client import Configuration
from prometheus_client import CollectorRegistry

from e2e.client import new_api
from e2e.helm import helm
from kvtide_operator.act.kubernetes.api import ApiMetrics, KubernetesApi, OpenGate
from kvtide_operator.act.kubernetes.children import admin_secret, children
from kvtide_operator.act.kubernetes.errors import ForbiddenError
from kvtide_operator.act.kubernetes.events import Events
from kvtide_operator.act.kubernetes.transport import Transport, find_cluster
from kvtide_operator.api.tieredcache import TieredCache
from kvtide_operator.decide.steps import SetSpec
from kvtide_operator.world.kinds import (
    CACHE_PLAN,
    CHILD_KINDS,
    CLAIM,
    EVENT,
    LEASE,
    OWN_KINDS,
    POD,
    SECRET,
    STATEFUL_SET,
    STORAGE_CLASS,
    TIER_CLASS,
    TIERED_CACHE,
    Kind,
)  # fmt: skip

ROOT: Final = Path(__file__).parents[1]
CHART: Final = str(ROOT / "charts" / "kvtide")
CACHE: Final[dict[str, Any]] = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "TieredCache",
    "spec": {
        "model": {"name": "meta-llama/Llama-3.1-8B-Instruct"},
        "engine": {"gpuHour": "2.50", "profile": {"source": "Catalogue", "system": "h100_sxm"}},
        "tiers": [
            {
                "name": "dram",
                "medium": "DRAM",
                "classes": ["dram"],
                "capacity": {"initial": "64Mi", "min": "32Mi", "max": "1Gi"},
            }
        ],
        "nodes": {"replicas": {"min": 1}},
    },
}
MIB: Final = 1 << 20


def run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: None) -> None:
    run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))


@contextmanager
def installed(namespace: str, values: dict[str, Any]) -> Iterator[None]:
    """A release of the namespace's name in it."""
    own = {"fullnameOverride": namespace, "crds": {"install": False}}
    arguments = [namespace, CHART, f"--namespace={namespace}", "--values=-"]
    run(str(helm()), "install", *arguments, "--wait", "--timeout=60s", stdin=yaml.safe_dump(own | values))
    try:
        yield
    finally:
        run(str(helm()), "uninstall", namespace, f"--namespace={namespace}", "--wait")


@pytest.fixture
def release(namespace: str) -> Iterator[str]:
    """A release for its own namespace alone, of no replicas; its name is the namespace's."""
    with installed(namespace, {"watchNamespaces": [namespace], "replicas": 0}):
        yield namespace


@pytest.fixture
async def operator(release: str) -> AsyncIterator[KubernetesApi]:
    """The operator's client with the very rights of the release's service account."""
    token = run("kubectl", "create", "token", release, f"--namespace={release}").strip()
    known = find_cluster()
    configuration: Any = Configuration()
    configuration.host, configuration.ssl_ca_cert = known.host, known.ssl_ca_cert
    configuration.retries = False
    configuration.api_key = {"authorization": f"Bearer {token}"}
    api = KubernetesApi(
        Transport(configuration, threads=2),
        gate=OpenGate(),
        metrics=ApiMetrics(CollectorRegistry()),
        random=random.random,
    )
    yield api
    api.close()


@pytest.fixture
async def people() -> AsyncIterator[KubernetesApi]:
    api = new_api()
    yield api
    api.close()


async def refused(call: Any) -> bool:
    try:
        await call
    except ForbiddenError:
        return True
    return False


@pytest.mark.parametrize(
    "values",
    [{"watchAllNamespaces": True}, {"watchNamespaces": ["default"], "networkPolicy": {"enabled": True}}],
)
def test_the_api_server_accepts_all_of_it(namespace: str, values: dict[str, Any]) -> None:
    made = run(
        str(helm()),
        "template",
        "kvtide",
        CHART,
        f"--namespace={namespace}",
        "--values=-",
        stdin=yaml.safe_dump(values),
    )
    words = [
        "kubectl",
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        "-",
    ]
    kinds = {each["kind"] for each in json.loads(run(*words, stdin=made))["items"]}
    assert {
        "CustomResourceDefinition",
        "ClusterRole",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    } <= kinds


async def test_the_operators_pod_is_restricted(namespace: str) -> None:
    made = run(str(helm()), "template", "kvtide", CHART, f"--namespace={namespace}")
    deployment = next(each for each in yaml.safe_load_all(made) if each and each["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] |= {"name": "operator", "namespace": namespace}
    run("kubectl", "create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


async def test_the_role_is_enough(operator: KubernetesApi, people: KubernetesApi, release: str) -> None:
    manifest = {**CACHE, "metadata": {"name": "chat", "namespace": release}}
    stored = await people.create(manifest)
    cache, uid = TieredCache.model_validate(manifest), stored["metadata"]["uid"]
    for kind in (*OWN_KINDS, STORAGE_CLASS):
        await operator.list(kind, release if kind.namespaced else None)
    for kind in CHILD_KINDS:
        await operator.list(kind, release, "kvtide.dev/cache")
    await operator.create(admin_secret(cache, uid, "token"))
    assert await operator.get(SECRET, release, "chat-admin")
    objects = children(
        cache, uid, SetSpec(1, 256 * MIB, 320 * MIB), ssd_class=None, operator_namespace=release,
        has_service_monitors=False,
    )  # fmt: skip
    for each in (*objects, *objects):
        await operator.apply(each)
    await operator.apply_status({**manifest, "spec": None, "status": {"observedGeneration": 1}})
    await Events(operator, "test").record(stored, "Tested", "a sentence")
    assert (await operator.list(EVENT, release, field_selector="type=Normal"))[0]

    pods: list[Any] = []
    while not pods:
        pods, _ = await operator.list(POD, release, "kvtide.dev/cache=chat")
    memory = {"memory": "300Mi"}
    node = {"name": "node", "resources": {"requests": memory, "limits": memory}}
    await operator.patch_by_key(
        POD, release, "chat-0", {"spec": {"containers": [node]}}, subresource="resize"
    )
    claim = await operator.get(CLAIM, release, "ssd-chat-0")
    # Its request can grow only once it is bound; the right is the same.
    await operator.patch(CLAIM, release, "ssd-chat-0", {"metadata": {"labels": {"tested": "yes"}}})
    stateful_set = await operator.get(STATEFUL_SET, release, "chat")
    await operator.delete(STATEFUL_SET, release, "chat", uid=stateful_set["metadata"]["uid"], orphan=True)
    await operator.delete(POD, release, "chat-0", uid=pods[0]["metadata"]["uid"])
    await operator.delete(CLAIM, release, "ssd-chat-0", uid=claim["metadata"]["uid"])

    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "kvtide-operator", "namespace": release},
        "spec": {"holderIdentity": "test"},
    }
    await operator.replace(await operator.create(lease))


async def test_the_role_is_no_more_than_that(
    operator: KubernetesApi, people: KubernetesApi, release: str
) -> None:
    manifest = {**CACHE, "metadata": {"name": "chat", "namespace": release}}
    stored = await people.create(manifest)
    assert await operator.get(TIERED_CACHE, release, "chat")
    spec = {"spec": {"nodes": {"replicas": {"min": 2}}}}
    assert await refused(operator.patch(TIERED_CACHE, release, "chat", spec))
    assert await refused(operator.delete(TIERED_CACHE, release, "chat", uid=stored["metadata"]["uid"]))
    assert await refused(operator.list(SECRET, release))
    assert await refused(operator.delete(SECRET, release, "any", uid=stored["metadata"]["uid"]))
    pod = {"containers": [{"name": "a", "image": "a"}]}
    metadata = {"name": "mine", "namespace": release}
    assert await refused(
        operator.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})
    )
    other = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    stored_lease = await people.create(other)
    assert await refused(operator.get(LEASE, release, "mine"))
    assert await refused(operator.replace(stored_lease))
    for kind in (*CHILD_KINDS, TIERED_CACHE, CACHE_PLAN, SECRET):
        assert await refused(operator.list(kind, "default")), f"{kind.plural} of another namespace"
    assert await refused(operator.list(POD)), "pods of all namespaces"
    nodes = Kind("", "v1", "Node", "nodes", namespaced=False)
    assert await refused(operator.list(nodes))


@pytest.mark.parametrize("everywhere", [True, False], ids=["all-namespaces", "one-namespace"])
async def test_one_replica_leads_and_the_other_follows_it(
    namespace: str, operator_image: str, people: KubernetesApi, everywhere: bool
) -> None:
    repository, _, tag = operator_image.rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "watchAllNamespaces": everywhere,
    }
    selector = f"app.kubernetes.io/instance={namespace}"

    async def leader() -> str:
        lease = await people.get(LEASE, namespace, "kvtide-operator")
        return str(lease["spec"]["holderIdentity"]).rpartition("_")[0]

    # Both replicas are ready when this begins.
    with installed(namespace, values):
        pods, _ = await people.list(POD, namespace, selector)
        first = await leader()
        (leading,) = [pod for pod in pods if pod["metadata"]["name"] == first]
        for pod in pods:
            logs = run("kubectl", "logs", f"--namespace={namespace}", pod["metadata"]["name"])
            assert "forbidden" not in logs
        await people.delete(POD, namespace, first, uid=leading["metadata"]["uid"])
        # Less than the Lease's 15 s: the one that ends lets go of it.
        async with asyncio.timeout(12.0):
            while await leader() in (first, ""):
                await asyncio.sleep(0.2)
    pods, _ = await people.list(POD, namespace, selector)
    assert all("deletionTimestamp" in pod["metadata"] for pod in pods)


async def test_a_cache_is_made_and_left_alone_under_the_shipped_role(
    namespace: str, operator_image: str, node_image: str, people: KubernetesApi
) -> None:
    repository, _, tag = operator_image.rpartition(":")
    values = {"image": {"repository": repository, "tag": tag}, "watchNamespaces": [namespace], "replicas": 1}
    price = {"currency": "USD", "capacity": [{"perGiBHour": "0.004"}]}
    tier_class = {
        "apiVersion": "kvtide.dev/v1alpha1",
        "kind": "TierClass",
        "metadata": {"name": namespace},
        "spec": {"medium": "DRAM", "price": price},
    }
    cache = copy.deepcopy({**CACHE, "metadata": {"name": "chat", "namespace": namespace}})
    cache["spec"]["tiers"][0]["classes"] = [namespace]
    cache["spec"]["nodes"] = {"replicas": {"min": 1}, "template": {"image": node_image, "cpu": "50m"}}
    cache["spec"]["scaling"] = {"mode": "Manual", "interval": "5s"}

    async def writes() -> dict[str, str]:
        """Of all kinds but the Lease, as the operator counts them."""
        (pod, *_), _ = await people.list(POD, namespace, "app.kubernetes.io/name=kvtide-operator")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{pod['status']['podIP']}:8080/metrics") as reply,
        ):
            lines = (await reply.text()).splitlines()
        counted = [
            line.rsplit(" ", 1) for line in lines if line.startswith("kvtide_operator_api_calls_total{")
        ]
        return {name: count for name, count in counted if "GET" not in name and "leases" not in name}

    made = await people.create(tier_class)
    try:
        with installed(namespace, values):
            await people.create(cache)
            settled = ("wait", "tieredcache/chat", f"--namespace={namespace}", "--timeout=90s")
            for condition in ("Ready=True", "Reconciling=False"):
                run("kubectl", *settled, f"--for=condition={condition}")
            # What the first round decides is written, too; before that it compiles.
            run("kubectl", *settled, "--for=jsonpath={.status.decisions[0].action}=Hold")
            before = await writes()
            # Several rounds of the loop, with nothing to do.
            await asyncio.sleep(12)
            assert await writes() == before
            logs = run("kubectl", "logs", f"--namespace={namespace}", f"deployment/{namespace}")
            assert "forbidden" not in logs
    finally:
        await people.delete(TIER_CLASS, None, namespace, uid=made["metadata"]["uid"])


def test_the_chart_brings_the_kinds_and_leaves_them(
    namespace: str, was_kept: bool, request: pytest.FixtureRequest
) -> None:
    """As in a cluster that has never seen them: they, and what people declared, outlive the release."""
    if was_kept and not request.config.getoption("--yes"):
        pytest.skip(
            "deletes the kinds, and with them every TieredCache of a cluster that was kept: say --yes"
        )
    kinds, within = str(ROOT / "crds"), f"--namespace={namespace}"
    values = {"crds": {"install": True}, "watchNamespaces": [namespace], "replicas": 0}
    cache = {**CACHE, "metadata": {"name": "chat", "namespace": namespace}}
    run("kubectl", "delete", "--ignore-not-found", "-f", kinds)
    try:
        with installed(namespace, values):
            run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", "-f", kinds)
            run("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps(cache))
        assert "chat" in run("kubectl", "get", "tieredcaches", within, "-o", "name")
        with installed(namespace, values):
            assert "chat" in run("kubectl", "get", "tieredcaches", within, "-o", "name")
    finally:
        run("kubectl", "delete", "--ignore-not-found", "-f", kinds)
        run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", kinds)
        run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", "-f", kinds)
