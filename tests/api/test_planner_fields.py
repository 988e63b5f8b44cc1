"""What a manifest says of engines, SSD admission and objectives reaches the planner."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kvtide_cachenode.contract.sizing import capacity_for
from kvtide_operator.api.manifest import Manifest, load_manifest
from kvtide_operator.plan.kareto import Kareto
from kvtide_operator.planner.goal import options_of, space_of
from kvtide_operator.planner.scenario import declared

ROOT = Path(__file__).parents[2]


def sample(tmp_path: Path, name: str, **spec: Any) -> Manifest:
    document = yaml.safe_load((ROOT / f"samples/{name}.yaml").read_text())
    for field, value in spec.items():
        document["spec"][field] |= value
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump(document) + "---\n" + (ROOT / "samples/tierclasses.yaml").read_text())
    return load_manifest(path)


@pytest.mark.parametrize("name", ["vllm-small", "vllm-large", "sglang-small", "sglang-large"])
def test_every_sample_can_be_planned(tmp_path: Path, name: str) -> None:
    fields = declared(sample(tmp_path, name))
    assert fields["kv_bytes_per_token"] > 0
    assert fields["semantics"] == ("vllm" if name.startswith("vllm") else "mooncake")


def test_what_is_left_out_is_what_it_was_before_there_was_a_field(tmp_path: Path) -> None:
    fields = declared(sample(tmp_path, "vllm-small"))
    assert (fields["offload"], fields["routing"], fields["ssd_writes"]) == (
        "writeThrough",
        "roundRobin",
        "always",
    )


@pytest.mark.parametrize(
    ("offload", "simulated"),
    [("WriteThrough", "writeThrough"), ("OnEvict", "onEvict"), ("Selective", "selective")],
)
def test_offload_is_simulated(tmp_path: Path, offload: str, simulated: str) -> None:
    assert declared(sample(tmp_path, "vllm-small", engine={"offload": offload}))["offload"] == simulated


def test_routing_and_admission_are_simulated(tmp_path: Path) -> None:
    large = declared(sample(tmp_path, "vllm-large"))
    assert (large["routing"], large["ssd_writes"]) == ("prefixAffine", "secondTouch")
    assert declared(sample(tmp_path, "sglang-large"))["ssd_writes"] == "reusedOnly"


def test_objectives_are_constraints(tmp_path: Path) -> None:
    constraints = options_of(sample(tmp_path, "sglang-large"), Kareto()).constraints
    assert constraints.throughput_tok_s == 20000
    assert constraints.ttft_mean_s == 1.0
    assert constraints.ttft_p99_s == 5.0
    assert constraints.storage_cost_per_hour is None
    assert options_of(sample(tmp_path, "vllm-large"), Kareto()).constraints.storage_cost_per_hour == 40.0


def test_no_plan_asks_for_more_than_the_nodes_can_hold(tmp_path: Path) -> None:
    small = {"replicas": {"min": 8, "max": 16}, "maxMemory": "140Gi"}
    manifest = sample(tmp_path, "vllm-large", nodes=small)
    assert space_of(manifest).dram_max_bytes == capacity_for(140 << 30) * 16 < 4 << 40
    assert space_of(sample(tmp_path, "vllm-large")).dram_max_bytes == 4 << 40
