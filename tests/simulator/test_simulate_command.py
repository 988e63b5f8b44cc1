"""`kvtide simulate` from the outside."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvtide_operator.cli.simulate import command

CACHE = """
apiVersion: kvtide.dev/v1alpha1
kind: TieredCache
metadata: {name: chat}
spec:
  model: {name: Llama-3.1-8B, blockTokens: 512}
  engine: {kind: VLLM, gpuHour: "2.50", profile: {source: Catalogue, system: h100_sxm}, gpuCache: 0}
  tiers:
  - {name: dram, medium: DRAM, classes: [dram-standard], capacity: {initial: 1Gi, min: 1Gi, max: 4Ti}}
%s
  nodes: {replicas: {min: 32}}
---
"""
SSD = (
    "  - {name: ssd, medium: SSD, classes: [local-nvme, essd-pl1], capacity: {initial: 0, min: 0, max: 4Ti}}"
)


@pytest.fixture
def files(tmp_path):
    """A trace in which every prompt comes twice, an hour apart, and manifests with and without an SSD."""
    lines = [
        {
            "timestamp": 1000 * at,
            "input_length": 2048,
            "output_length": 8,
            "hash_ids": [4 * i + j for j in range(4)],
        }
        for at, i in [*enumerate(range(50)), *((3600 + i, i) for i in range(50))]
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    classes = (Path(__file__).parents[2] / "examples" / "tierclasses.yaml").read_text()
    for name, tier in (("ssd", SSD), ("dram", "")):
        (tmp_path / f"{name}.yaml").write_text(CACHE % tier + classes)
    return tmp_path


def run(files, *options, manifest="ssd"):
    return CliRunner().invoke(
        command, [str(files / "trace.jsonl"), "-f", str(files / f"{manifest}.yaml"), *options]
    )


def test_json_says_what_was_simulated_and_what_it_gives(files):
    report = json.loads(run(files, "--dram", "64Gi", "--json").stdout)
    assert report["dram_bytes"] == 64 << 30
    assert report["dram_hit_blocks"] == 50 * 3  # vLLM computes the last token of a prompt that is all cached
    assert report["prefix_hit_ratio"] == 150 / 400
    assert report["stable"]
    assert report["storage_cost_per_hour"] == pytest.approx(64 * 0.00394)
    assert report["cost_per_hour"] == pytest.approx(64 * 0.00394 + 2.5)


def test_an_ssd_keeps_what_dram_cannot_as_long_as_it_is_told_to(files):
    hits = {}
    for ttl in ("0s", "30m", "2h"):
        report = json.loads(run(files, "--ttl", ttl, "--json").stdout)
        hits[ttl] = report["ssd_hit_blocks"]
        assert (report["ssd_bytes"] > 0) == (ttl != "0s")
    # What DRAM holds last, 16 blocks of four prompts, it demotes an hour later, just before it is asked for.
    assert hits == {"0s": 0, "30m": 4 * 3, "2h": 50 * 3}


def test_people_read_a_summary(files):
    done = run(files, "--ttl", "2h", "--class", "essd-pl1")
    assert done.exit_code == 0, done.output
    assert "essd-pl1 on 32 volumes" in done.output
    assert "USD/h" in done.output


@pytest.mark.parametrize(
    ("options", "manifest", "sentence"),
    [
        (["--dram", "1Mi"], "ssd", "does not fit DRAM of 1048576 bytes"),
        (["--dram", "many"], "ssd", "--dram: 'many' is not a quantity"),
        (["--ttl", "ten"], "ssd", "--ttl: 'ten' is not a duration"),
        (["--ttl", "10m", "--class", "tape"], "ssd", "'tape' is not defined"),
        (["--ttl", "10m"], "dram", "has no SSD tier"),
        (["--instances", "0"], "ssd", "at least one of each"),
    ],
)
def test_mistakes_end_with_one_sentence(files, options, manifest, sentence):
    done = run(files, *options, manifest=manifest)
    assert done.exit_code == 2
    assert sentence in done.output
    assert done.output.count("\n") == 1
