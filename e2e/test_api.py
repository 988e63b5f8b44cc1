"""The API at a real API server: definitions, samples, defaults, refusals. A control plane is enough."""

import copy
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import yaml
from pydantic import ValidationError

from kvtide_operator.api.base import API_VERSION
from kvtide_operator.api.quantity import parse_quantity
from kvtide_operator.api.tierclass import TierClass
from kvtide_operator.api.tieredcache import TieredCache

ROOT = Path(__file__).parents[1]
CASES = yaml.safe_load((ROOT / "tests/api/refused.yaml").read_text())
SAMPLES = sorted((ROOT / "samples").glob("*.yaml"))
CACHE = yaml.safe_load((ROOT / "samples/vllm-large.yaml").read_text())
POINT = {
    "dram": "1Gi", "tiersPerHour": "0.1", "costPerHour": "2.6", "throughput": "100", "hitRatio": "0.3",
    "stable": True,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "apiVersion": "kvtide.dev/v1alpha1",
    "kind": "CachePlan",
    "metadata": {"name": "chat-1"},
    "spec": {
        "cacheRef": {"name": "chat"},
        "validUntil": "2026-01-31T12:00:00Z",
        "workload": {"window": "1h", "requests": 10, "blocks": 100, "hash": "abc"},
        "currency": "USD",
        "frontier": [POINT, {**POINT, "dram": "2Gi", "costPerHour": "2.7"}],
        "chosen": 1,
        "baseline": POINT,
        "gain": "0.1",
        "why": "it costs less",
    },
}


def kubectl(*arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
    text = stdin if isinstance(stdin, str) or stdin is None else yaml.safe_dump_all([stdin])
    return subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)


def right(*arguments: str, stdin: Any = None) -> str:
    done = kubectl(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: None) -> Iterator[None]:
    right("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    right("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
    there = set(right("get", "tcl", "-o", "name").split())
    yield
    ours = set(right("get", "tcl", "-o", "name").split()) - there
    if ours:
        right("delete", "--wait=false", *ours)


@pytest.fixture(scope="module")
def namespace(definitions: None) -> Iterator[str]:
    name = f"api-{uuid4().hex[:8]}"
    right("create", "namespace", name)
    yield name
    right("delete", "namespace", name, "--wait=false")


def test_the_definitions_are_stored_as_they_are_written() -> None:
    for path in (ROOT / "crds").glob("*.yaml"):
        ours = yaml.safe_load(path.read_text())
        stored = json.loads(right("get", "crd", ours["metadata"]["name"], "-o", "json"))
        assert stored["spec"] == ours["spec"]
        assert {"NonStructuralSchema"}.isdisjoint(
            each["type"] for each in stored["status"]["conditions"] if each["status"] == "True"
        )
    assert right("diff", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds")) == ""


def test_samples_are_taken_and_stay_as_they_are(namespace: str) -> None:
    for path in SAMPLES:
        right("apply", "-n", namespace, "--server-side", "--force-conflicts", "-f", str(path))
    changes = right(
        "diff", "-n", namespace, "--server-side", "--force-conflicts", "-f", str(ROOT / "samples")
    )
    assert changes == ""
    shown = right("get", "tc", "-n", namespace, "vllm-large").splitlines()
    assert shown[0].split() == [
        "NAME", "READY", "NODES", "DRAM", "SSD", "HIT", "RATIO", "COST/H", "DOING", "MODE", "AGE",
    ]  # fmt: skip
    assert shown[1].split()[:2] == ["vllm-large", "Advise"]
    assert right("get", "tcl", "essd-pl1").splitlines()[1].split()[:3] == ["essd-pl1", "SSD", "essd-pl1"]


def test_defaults_are_stored_and_mean_what_the_models_mean(namespace: str) -> None:
    right("apply", "-n", namespace, "--server-side", "-f", str(ROOT / "samples/vllm-small.yaml"))
    stored = json.loads(right("get", "tc", "-n", namespace, "vllm-small", "-o", "json"))
    assert stored["spec"]["scaling"]["down"] == {"stabilization": "10m"}
    assert stored["spec"]["nodes"]["template"]["cpu"] == "500m"
    assert "image" not in stored["spec"]["nodes"]["template"], "a stored image would outlive the operator's"
    declared = yaml.safe_load((ROOT / "samples/vllm-small.yaml").read_text())
    assert TieredCache.model_validate(stored).spec == TieredCache.model_validate(declared).spec


def test_a_status_is_read_as_it_was_written(namespace: str) -> None:
    cache = {**CACHE, "metadata": {"name": "with-status"}}
    right("apply", "-n", namespace, "--server-side", "-f", "-", stdin=cache)
    sizes = {"dram": "1Ti", "ssd": "0"}
    status = {
        "observedGeneration": 1,
        "summary": {"nodes": "1/2", "dram": "960Gi/1Ti", "ssd": "0/0", "doing": "Resizing"},
        "endpoints": {"redis": "rediss://with-status.prod.svc:6379"},
        "connection": {"configMap": "with-status-connection"},
        "hitRatio": "0.31",
        "costPerHour": "4.235",
        "tiers": [
            {
                "name": "dram", "medium": "DRAM", "class": "dram-standard", "desired": "1Ti",
                "actual": "960Gi", "used": "123Gi", "paid": "1100Gi", "hitRatio": "0.21",
                "costPerHour": "4.235",
            },
            {"name": "ssd", "medium": "SSD", "class": "essd-pl1", "desired": "0", "ttl": "1h30m"},
        ],
        "nodes": [
            {"name": "with-status-0", "ready": True, "memory": "137Gi", "dram": "120Gi", "ssd": "0"},
            {
                "name": "with-status-1", "ready": False, "silent": "no answer within 5 s",
                "held": {"memory": "0", "reason": "its pod does not run", "since": "2026-01-31T12:00:00Z"},
            },
        ],
        "plan": {
            "name": "chat-1", "point": {**POINT, "ttft": {"mean": "123.5ms", "p50": "100ms", "p99": "1.2s"}},
            "baseline": POINT, "savings": "-0.02", "predictionError": {"hitRatio": "0.012", "ttft": "0.07"},
        },
        "decisions": [
            {
                "time": "2026-01-31T12:00:00Z", "action": "Grow", "from": sizes, "to": sizes, "reason": "why",
                "outcome": "in effect after 12 s",
            }
        ],
        "conditions": [
            {
                "type": "Ready", "status": "True", "reason": "NodesReady", "message": "8 nodes ready",
                "lastTransitionTime": "2026-01-31T12:00:00Z", "observedGeneration": 1,
            }
        ],
    }  # fmt: skip
    patch = json.dumps({"status": status})
    right("patch", "tc", "-n", namespace, "with-status", "--subresource=status", "--type=merge", "-p", patch)
    stored = json.loads(right("get", "tc", "-n", namespace, "with-status", "-o", "json"))
    read = TieredCache.model_validate(stored).status
    assert read is not None
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True) == status
    assert stored["status"] == status
    columns = right("get", "tc", "-n", namespace, "with-status").splitlines()[1].split()
    assert columns[:9] == [
        "with-status", "True", "1/2", "960Gi/1Ti", "0/0", "0.31", "4.235", "Resizing", "Advise",
    ]  # fmt: skip


def enums(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (value for value in schema.get("enum", ()) if isinstance(value, str))
        for part in schema.values():
            yield from enums(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from enums(part)


def test_every_documented_value_survives_kubectl_unquoted() -> None:
    values = {
        value
        for path in (ROOT / "crds").glob("*.yaml")
        for value in enums(yaml.safe_load(path.read_text()))
        if value not in ("True", "False")  # the status of a condition, which programs write
    }
    lines = "".join(f"  value-{value.lower()}: {value}\n" for value in sorted(values))
    manifest = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: values}}\ndata:\n{lines}"
    read = json.loads(right("create", "--dry-run=client", "-o", "json", "-f", "-", stdin=manifest))
    assert set(read["data"].values()) == values


def changed(manifest: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    manifest = copy.deepcopy(manifest)

    def parent(path: str) -> tuple[Any, str | int]:
        *parents, last = path.split(".")
        here: Any = manifest
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here[part]
        return here, int(last) if isinstance(here, list) else last

    for path, value in case.get("set", {}).items():
        here, last = parent(path)
        here[last] = value
    for path in case.get("remove", ()):
        here, last = parent(path)
        del here[last]
    return manifest


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_wrong_manifest_is_refused_at_apply(case: dict[str, Any], namespace: str) -> None:
    classes = yaml.safe_load_all((ROOT / "samples/tierclasses.yaml").read_text())
    by_name = {each["metadata"]["name"]: each for each in classes}
    base = {"cache": CACHE, "class": by_name["essd-pl1"], "dram": by_name["dram-standard"]}[case["of"]]
    scope = ["-n", namespace] if case["of"] == "cache" else []
    wrong = changed(base, case)
    if wrong["metadata"]["name"] == base["metadata"]["name"]:
        wrong["metadata"]["name"] = "wrong"
    done = kubectl("create", *scope, "--dry-run=server", "-f", "-", stdin=wrong)
    assert done.returncode != 0, "it was taken"
    assert re.search(case["cluster"], done.stderr), done.stderr


def drawn_caches(seed: int, count: int) -> list[dict[str, Any]]:
    """Caches of which about half are wrong, each in its own way."""
    random = Random(seed)
    sizes = ["0", 0, "512Mi", "1Gi", "1024Mi", 1073741824, "1.5Gi", "2Gi", "2G", "4Gi", ".5Ti"]
    times = ["0s", "1ms", "59s", "1m", "60s", "1.5h", "1h30m", "2h"]
    caches = []
    for n in range(count):
        least, start, most = (random.choice(sizes) for _ in range(3))
        tiers: list[dict[str, Any]] = [
            {
                "name": "dram", "medium": "DRAM", "classes": ["dram-standard"],
                "capacity": {"min": least, "initial": start, "max": most, "step": random.choice(sizes)},
            },
            {
                "name": "ssd", "medium": "SSD", "classes": ["essd-pl1"],
                "capacity": {"min": 0, "initial": 0, "max": "1Ti"},
                "ttl": {"min": random.choice(times), "max": random.choice(times)},
            },
        ]  # fmt: skip
        if random.random() < 0.7:  # so that some are right
            tiers[0]["capacity"] |= {"min": "512Mi", "max": ".5Ti", "step": "1Gi"}
            tiers[1]["ttl"]["min"] = "0s"
        nodes: dict[str, Any] = {"replicas": {"min": random.randint(1, 3)}}
        if random.random() < 0.5:
            nodes["replicas"]["max"] = random.randint(1, 4)
        if random.random() < 0.5:
            nodes["maxMemory"] = random.choice(sizes)
        scaling = {"interval": random.choice(times[1:]), "window": random.choice(times[2:])}
        spec = {**CACHE["spec"], "tiers": tiers[: random.choice([1, 2])], "nodes": nodes, "scaling": scaling}
        caches.append({**CACHE, "metadata": {"name": f"drawn-{n}"}, "spec": spec})
    return caches


def drawn_classes(seed: int, count: int) -> list[dict[str, Any]]:
    """Price ladders of which about half are wrong."""
    random = Random(seed)
    bounds = ["512Mi", "1Gi", 1073741824, "2Gi", "1Ti", None]
    classes = []
    for n in range(count):
        ladder: list[dict[str, Any]] = [{"perGiBHour": "1"}]
        for bound in random.choices(bounds, k=random.randint(0, 3)):
            ladder.insert(0, {"perGiBHour": "1"} | ({"upTo": bound} if bound is not None else {}))
        if random.random() < 0.5:
            ladder.sort(key=lambda rung: parse_quantity(str(rung.get("upTo", "1000Ti"))))
        steps = sorted(random.choices(range(5), k=random.randint(0, 3)))
        price = {"capacity": ladder, "iops": [{"above": step, "perIOPSHour": "1"} for step in steps]}
        spec = {"medium": random.choice(["DRAM", "SSD"]), "price": price}
        if random.random() < 0.7:
            speed = {"base": "1M"}
            spec["speed"] = {"read": speed, "write": speed}
        metadata = {"name": f"drawn-{n}"}
        classes.append({"apiVersion": API_VERSION, "kind": "TierClass", "metadata": metadata, "spec": spec})
    return classes


@pytest.mark.parametrize("seed", range(3))
def test_the_server_and_the_models_agree_on_what_is_right(seed: int, namespace: str) -> None:
    drawn = drawn_caches(seed, 60) + drawn_classes(seed, 40)
    kinds: dict[str, type[TieredCache] | type[TierClass]] = {
        "TieredCache": TieredCache,
        "TierClass": TierClass,
    }
    text = yaml.dump_all(drawn, Dumper=NoAliases)
    done = kubectl("create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-", stdin=text)
    decoder, rest, taken = json.JSONDecoder(), done.stdout.strip(), set()
    while rest:
        found, end = decoder.raw_decode(rest)
        taken |= {(each["kind"], each["metadata"]["name"]) for each in found.get("items", [found])}
        rest = rest[end:].strip()
    right_ones = {
        (each["kind"], each["metadata"]["name"]) for each in drawn if is_right(kinds[each["kind"]], each)
    }
    assert len(drawn) // 5 < len(right_ones) < len(drawn) * 4 // 5, "some are right and some are not"
    differing = taken ^ right_ones
    assert not differing, (seed, sorted(differing), done.stderr)


def is_right(model: type[TieredCache] | type[TierClass], manifest: dict[str, Any]) -> bool:
    try:
        model.model_validate(manifest)
    except ValidationError:
        return False
    return True


class NoAliases(yaml.SafeDumper):
    """Repeats what is the same: kubectl reads aliases, but not as well as people."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def test_a_plan_changes_only_by_its_approval(namespace: str) -> None:
    operator = ("apply", "-n", namespace, "--server-side", "--field-manager=kvtide", "-f", "-")
    right(*operator, stdin=PLAN)

    def patch(spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return kubectl(
            "patch", "cpl", "-n", namespace, "chat-1", "--type=merge", "-p", json.dumps({"spec": spec})
        )

    for spec in (
        {"chosen": 0},
        {"gain": "0.2"},
        {"why": "it looks better"},
        {"validUntil": "2027-01-31T12:00:00Z"},
        {"frontier": [POINT, POINT]},
        {"frontier": [POINT, {**PLAN["spec"]["frontier"][1], "ssd": "1Gi"}]},
        {"workload": {"requests": 11}},
        {"baseline": {"dram": "3Gi"}},
    ):
        refused = patch(spec)
        assert "spec of a CachePlan cannot change but for approved" in refused.stderr, spec
    assert patch({"approved": True}).returncode == 0
    refused = patch({"approved": False})
    assert "approved cannot go back to false; to stop, set spec.scaling.mode" in refused.stderr
    right(*operator, stdin=PLAN)
    stored = json.loads(right("get", "cpl", "-n", namespace, "chat-1", "-o", "json"))
    assert stored["spec"] == {**PLAN["spec"], "approved": True}, (
        "the operator's apply left the approval alone"
    )
    assert right("get", "cpl", "-n", namespace).splitlines()[1].split()[:4] == [
        "chat-1",
        "chat",
        "0.1",
        "true",
    ]


def test_a_plan_has_its_chosen_point_and_at_most_64(namespace: str) -> None:
    no_such = {**PLAN, "spec": {**PLAN["spec"], "chosen": 2}}
    done = kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", stdin=no_such)
    assert "chosen must be the place of a point in frontier, from 0" in done.stderr
    long = {**PLAN, "spec": {**PLAN["spec"], "frontier": [POINT] * 65}}
    done = kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", stdin=long)
    assert "spec.frontier: Too many: 65: must have at most 64 items" in done.stderr


def test_the_largest_plan_is_within_the_budget_of_the_rules(namespace: str) -> None:
    groups = [f"{1000 + n}s" for n in range(17)]
    points = [
        {**POINT, "dram": f"{n}Gi", "ssd": "1Ti", "class": "essd-pl1", "groups": groups} for n in range(64)
    ]
    plan = {**PLAN, "metadata": {"name": "largest"}, "spec": {**PLAN["spec"], "frontier": points}}
    right("apply", "-n", namespace, "--server-side", "-f", "-", stdin=plan)
    right("patch", "cpl", "-n", namespace, "largest", "--type=merge", "-p", '{"spec": {"approved": true}}')


STORED_BEFORE = (
    "a size beyond all memory", "a size beyond all memory, in an exponent", "a round every microsecond",
    "a round every 800 years", "grace for ever", "memory for the DRAM and nothing else",
    "a latency of nothing", "a median above the last percentile", "a budget of nothing", "a class twice",
    "a label of the operator's own", "a toleration without a key", "half a geometry",
    "an address with a password in it", "a history without a scheme",
)  # fmt: skip


def without_rules(schema: Any) -> Any:
    """A schema as it was before there were rules; what people may write is bounded by types alone."""
    if isinstance(schema, list):
        return [without_rules(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = ("x-kubernetes-validations", "pattern", "maximum", "minimum")
    kept = {key: without_rules(part) for key, part in schema.items() if key not in left_out}
    if kept.get("x-kubernetes-list-type") == "set":
        del kept["x-kubernetes-list-type"]
    return kept


@pytest.fixture
def before(definitions: None) -> Iterator[dict[str, Any]]:
    """The definition of TieredCaches in a group of its own, so that nobody else's change."""
    crd = yaml.safe_load((ROOT / "crds/kvtide.dev_tieredcaches.yaml").read_text())
    group = f"t{uuid4().hex[:8]}.kvtide.dev"
    crd["metadata"]["name"] = f"tieredcaches.{group}"
    crd["spec"]["group"] = group
    crd["spec"]["names"] |= {"categories": [], "shortNames": []}
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    old = copy.deepcopy(crd)
    old["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = without_rules(schema)
    right("apply", "--server-side", "-f", "-", stdin=old)
    right("wait", "--for=condition=Established", "--timeout=30s", f"crd/{crd['metadata']['name']}")
    yield crd
    right("delete", "crd", crd["metadata"]["name"])


def test_what_was_stored_before_a_rule_can_be_written_corrected_and_deleted(
    before: dict[str, Any], namespace: str
) -> None:
    group, kind = before["spec"]["group"], before["metadata"]["name"]
    base = {**CACHE, "apiVersion": f"{group}/v1alpha1"}
    stored = {}
    for number, case in enumerate(case for case in CASES if case["name"] in STORED_BEFORE):
        wrong = changed(base, case)
        wrong["metadata"] = {"name": f"stored-{number}"}
        wrong["spec"]["nodes"].setdefault("template", {})
        stored[f"stored-{number}"] = case["name"]
        eventually(partial(is_taken, "apply", namespace, wrong))
    assert len(stored) == len(STORED_BEFORE)
    right("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=before)
    fresh = {**wrong, "metadata": {"name": "fresh"}}
    eventually(lambda: not is_taken("create", namespace, fresh, "--dry-run=server"))
    status = json.dumps({"status": {"observedGeneration": 1, "hitRatio": "0.31"}})
    for name, case in stored.items():
        object_ = ("-n", namespace, kind, name)
        done = kubectl("patch", *object_, "--subresource=status", "--type=merge", "-p", status)
        assert done.returncode == 0, (case, done.stderr)
        done = kubectl("label", *object_, "team=a")
        assert done.returncode == 0, (case, done.stderr)
        if name == "stored-0":
            right("delete", *object_)
            continue
        corrected = {**base, "metadata": {"name": name}}
        done = kubectl("replace", "-n", namespace, "-f", "-", stdin=corrected)
        assert done.returncode == 0, (case, done.stderr)
        right("delete", *object_)


def is_taken(verb: str, namespace: str, manifest: dict[str, Any], *options: str) -> bool:
    return kubectl(verb, "-n", namespace, *options, "-f", "-", stdin=manifest).returncode == 0


def eventually(holds: Callable[[], bool]) -> None:
    """An API server takes a new definition up some time after it has taken it."""
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s, "it was not taken up"
        time.sleep(0.2)
