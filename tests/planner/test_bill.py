"""What a cache costs: one figure in plans, decisions, status and metric."""

from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.status.conftest import SETTLED, WORLD, cache, node, pod

from kvtide_cachenode.contract.sizing import limit_for
from kvtide_operator.act.status import status_of
from kvtide_operator.act.status_inputs import StatusInputs
from kvtide_operator.api.manifest import Manifest, ManifestError, load_manifest
from kvtide_operator.decide.target import Target
from kvtide_operator.planner import planning
from kvtide_operator.planner.bill import Bill
from kvtide_operator.reconcile.metrics import ReconcileMetrics
from kvtide_operator.simulate.configuration import Configuration
from kvtide_operator.workload.generate import generate
from kvtide_operator.world.kinds import CacheKey

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
MIB = 1 << 20


def sample(tmp_path: Path, name: str, euros: str | None = None) -> Manifest:
    classes = (ROOT / "samples/tierclasses.yaml").read_text()
    if euros is not None:
        before, name_, after = classes.partition(f"name: {euros}}}")
        classes = before + name_ + after.replace("currency: USD", "currency: EUR", 1)
    path = tmp_path / "cache.yaml"
    path.write_text((ROOT / f"samples/{name}.yaml").read_text() + "---\n" + classes)
    return load_manifest(path)


def test_memory_of_all_containers_and_volumes_as_they_are_sold_are_paid_for(tmp_path: Path) -> None:
    manifest = replace(sample(tmp_path, "vllm-large"), in_containers=True)
    bill = Bill.of(manifest)
    memory_gib = 8 * limit_for(128 * GIB) / GIB
    assert bill.per_hour(1024 * GIB) == pytest.approx(memory_gib * 0.00394 + 8 * 20 * 0.00032)
    # 100 GiB a node: 5 % and 128 MiB more for the file system, whole GiB.
    assert bill.per_hour(1024 * GIB, 800 * GIB, "essd-pl2") == pytest.approx(
        memory_gib * 0.00394 + 8 * 461 * 0.00064
    )
    assert bill.per_hour(1024 * GIB, 8 * 1000 * GIB, "essd-pl1") == pytest.approx(
        memory_gib * 0.00394 + 8 * 1051 * 0.00032
    )
    assert Bill.of(replace(manifest, in_containers=False)).per_hour(1024 * GIB) == pytest.approx(
        1024 * 0.00394
    )


def test_plan_status_and_metric_say_the_same() -> None:
    demo = load_manifest(ROOT / "operator/src/kvtide_operator/cli/demo.yaml")
    manifest = replace(demo, in_containers=True)
    planning.take_in("bill", manifest, (), 1e9, generate(profile="chat", requests=50, rate_per_s=2.0, seed=1))
    found = planning.search("bill", manifest, Configuration(128 * MIB))
    planning.forget("bill")
    assert found is not None
    bill = Bill.of(manifest)
    for point in (found[0].current, found[0].chosen):
        paid = bill.per_hour(point.configuration.dram_bytes)
        assert point.outcome.storage_cost_per_hour == pytest.approx(paid)
    world = replace(
        WORLD,
        pods=tuple(pod(n, memory_bytes=limit_for(64 * MIB)) for n in (0, 1)),
        nodes={f"vllm-small-{n}": node(n, capacity_bytes=64 * MIB) for n in (0, 1)},
    )
    seen = StatusInputs(
        cache=cache(),
        world=world,
        target=Target(128 * MIB),
        done=SETTLED,
        prices={"DRAM": bill.dram_per_hour},
    )
    cost = status_of(seen).cost_per_hour
    assert cost == pytest.approx(found[0].current.outcome.storage_cost_per_hour)
    registry = CollectorRegistry()
    metrics, labels = ReconcileMetrics(registry), {"namespace": "prod", "cache": "chat"}
    metrics.bill(CacheKey("prod", "chat"), cost)
    assert registry.get_sample_value("kvtide_operator_cost_per_hour", labels) == cost
    metrics.bill(CacheKey("prod", "chat"), None)
    assert registry.get_sample_value("kvtide_operator_cost_per_hour", labels) is None, "no data is not zero"


def test_costs_of_two_currencies_are_never_added(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"priced dram-standard in USD, .*essd-pl2 in EUR.*; give all"):
        sample(tmp_path, "vllm-large", euros="essd-pl2")
    manifest = sample(tmp_path, "vllm-large")
    euros = manifest.classes["essd-pl2"].model_dump(mode="json", by_alias=True, exclude_none=True)
    euros["spec"]["price"]["currency"] = "EUR"
    classes = manifest.classes | {"essd-pl2": type(manifest.classes["essd-pl2"]).model_validate(euros)}
    assert isnan(Bill.of(replace(manifest, classes=classes)).per_hour(GIB))
    seen = StatusInputs(
        cache=cache(), world=WORLD, target=Target(4 * GIB), done=SETTLED, prices={"DRAM": lambda _: 1.0},
        has_one_currency=False,
    )  # fmt: skip
    status = status_of(seen)
    assert status.tiers[0].cost_per_hour == 1.0
    assert status.cost_per_hour is None
