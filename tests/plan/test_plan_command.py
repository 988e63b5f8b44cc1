"""`kvtide plan` from the command line: its JSON, its repeatability and what it says to mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from distributed import LocalCluster

from kvtide_operator.cli.plan import command

EXAMPLE = Path(__file__).parents[2] / "examples" / "kareto.yaml"
POINT = {
    *("dram_gib", "ttl_s", "tier_class", "storage_cost_per_hour", "cost_per_hour", "throughput_tok_s"),
    *("ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "prefix_hit_ratio", "stable"),
}


@pytest.fixture(scope="session")
def trace(tmp_path_factory):
    """Thirty conversations of up to six turns, which all begin alike, in ten minutes."""
    random = np.random.default_rng(7)
    rows, fresh = [], 1
    for _ in range(30):
        start, blocks = random.uniform(0, 300), [0]
        for turn in range(random.integers(1, 7)):
            blocks = [*blocks, *range(fresh, fresh + 6)]
            fresh += 6
            at = int(1000 * (start + turn * random.uniform(20, 60)))
            rows.append(
                {"timestamp": at, "input_length": 512 * len(blocks), "output_length": 200, "hash_ids": blocks}
            )
    path = tmp_path_factory.mktemp("plan") / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: row["timestamp"])))
    return path


@pytest.fixture
def manifest(tmp_path):
    """The example scaled to the small trace: one engine, a small GPU cache, an SSD fast enough to use."""

    def write(**change):
        documents = list(yaml.safe_load_all(EXAMPLE.read_text("utf-8")))
        spec = documents[0]["spec"]
        spec["engine"] |= {"instances": 1, "gpuCache": "1Gi"}
        spec["tiers"][0]["capacity"] = {"initial": "16Gi", "min": "1Gi", "max": "64Gi", "step": "1Gi"}
        spec["tiers"][1]["classes"] = ["local-nvme"]
        spec["objective"] = {"prefer": "Latency"}
        for document in documents:
            if document["metadata"]["name"] == "local-nvme":
                document["spec"]["speed"]["read"] = {"base": "20G"}
                document["spec"]["volume"] = {}
                del document["spec"]["endurance"]  # minutes of first writes would be a day's
        spec["tiers"][1].update(change)
        path = tmp_path / "cache.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return path

    return write


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def planned(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("search", ["kareto", "kareto-paper", "grid", "nsga2"])
def test_every_search_answers_with_the_same_document(trace, manifest, search):
    document = planned(
        trace, "-f", manifest(), "--search", search, "--option", "max_evaluations=30", "--jobs", 1
    )
    assert all(set(point) == POINT | {"coupled"} for point in document["frontier"])
    assert all(set(point) == POINT for point in [document["chosen"], document["baseline"]])
    configurations = [(p["dram_gib"], p["ttl_s"], p["tier_class"]) for p in document["frontier"]]
    assert len(set(configurations)) == len(configurations)
    for point in document["frontier"]:
        for other in (document["chosen"], document["baseline"]):
            same = all(point[key] == other[key] for key in ("dram_gib", "ttl_s", "tier_class"))
            assert not same or {**other, "coupled": True} == point
    assert document["baseline"]["dram_gib"] == 16
    assert 0 < document["hypervolume"] < 1.01**3
    assert document["hv_reference"] == [1.01, 1.01, 1.01]
    assert document["evaluations"] <= 30
    assert document["chosen"]["stable"]
    assert document["chosen"]["ttft_mean_s"] <= document["baseline"]["ttft_mean_s"]
    assert document["wall_s"] > 0


def test_the_number_of_processes_changes_nothing_but_the_time(trace, manifest):
    documents = [
        planned(trace, "-f", manifest(), "--jobs", jobs, "--groups", 4, "--seed", 3) for jobs in (1, 2)
    ]
    for document in documents:
        document.pop("wall_s")
    assert json.dumps(documents[0]) == json.dumps(documents[1])


def test_a_dask_cluster_gives_the_same_document(trace, manifest):
    here = planned(trace, "-f", manifest(), "--jobs", 1, "--option", "max_evaluations=20")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address=None,
        protocol="tcp://",
        host="127.0.0.1",
    ) as cluster:
        address = f"dask={cluster.scheduler_address}"
        there = planned(trace, "-f", manifest(), "--executor", address, "--option", "max_evaluations=20")
    assert {**there, "wall_s": 0} == {**here, "wall_s": 0}


def test_groups_are_a_ttl_each_or_a_reason_why_not(trace, manifest):
    document = planned(trace, "-f", manifest(), "--groups", 3, "--jobs", 1)
    (note,) = [note for note in document["notes"] if "TTL groups" in note]
    assert ("ttl_groups" in document["chosen"]) == note.startswith("TTL groups adopted")


def test_numbers_of_engines_are_compared(trace, manifest):
    document = planned(
        trace, "-f", manifest(), "--instances", "1:2", "--option", "max_evaluations=10", "--jobs", 1
    )
    assert [row["instances"] for row in document["instances"]] == [1, 2]
    assert sum(row["advised"] for row in document["instances"]) == 1


def test_the_table_and_the_page_name_the_choice(trace, manifest, tmp_path):
    page = tmp_path / "plan.html"
    result = run(trace, "-f", manifest(), "--report", page, "--jobs", 1, "--option", "max_evaluations=12")
    assert result.exit_code == 0
    assert "chosen: the lowest mean TTFT" in result.stdout
    assert "12 evaluations" in result.stdout
    assert "the search ended at its limit" in result.stdout
    text = page.read_text("utf-8")
    assert '<tr class="chosen' in text
    assert "<svg" in text
    assert "http" not in text.split("<svg")[0]


def test_a_ttl_range_of_one_point_leaves_dram_to_choose(trace, manifest):
    document = planned(trace, "-f", manifest(ttl={"min": "60s", "max": "60s"}), "--jobs", 1)
    assert {point["ttl_s"] for point in document["frontier"]} == {60.0}


def test_one_request_can_be_planned_for(tmp_path, manifest):
    path = tmp_path / "one.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1]}')
    document = planned(path, "-f", manifest(), "--jobs", 1)
    assert document["chosen"]["stable"]
    assert document["chosen"]["prefix_hit_ratio"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "magic"], "--search magic: known are kareto, kareto-paper, grid, nsga2"),
        (["--option", "speed=3"], "--option speed=3: write NAME=VALUE with one of tau_expand"),
        (["--option", "tau_refine=much"], "'much' is no value; write for example 0.0005"),
        (["--option", "max_evaluations=0"], "give a value above 0"),
        (["--option", "start_share=1/0"], "'1/0' is no value; write for example 1/2"),
        (["--option", "start_share=2"], "start_share=2: give a share of at most 1"),
        (["--executor", "dask=127.0.0.1:1"], "no Dask scheduler answers there"),
        (
            ["--option", "max_evaluations=1", "--report", "no/such/folder/plan.html"],
            "No such file or directory",
        ),
        (["--instances", "3:1"], "--instances 3:1: write MIN:MAX"),
        (["--executor", "ray"], "write dask=ADDRESS"),
    ],
)
def test_a_mistake_ends_in_one_sentence(trace, manifest, arguments, message):
    result = run(trace, "-f", manifest(), *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") <= 2


def test_an_empty_trace_is_refused(tmp_path, manifest):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    result = run(path, "-f", manifest())
    assert result.exit_code == 2
    assert "empty" in result.output


def test_hits_above_an_infinite_cache_of_prompts_are_explained(tmp_path, manifest):
    """The next turn asks for the block that the answer filled: a cache of prompts had never seen it."""
    rows = [
        {"timestamp": 0, "input_length": 512, "output_length": 512, "hash_ids": [1]},
        {"timestamp": 60_000, "input_length": 1536, "output_length": 1, "hash_ids": [1, 2, 3]},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    document = planned(path, "-f", manifest(), "--jobs", 1, "--option", "max_evaluations=8")
    assert document["chosen"]["prefix_hit_ratio"] == 2 / 4
    (note,) = [note for note in document["notes"] if "infinite" in note]
    assert note.startswith("hit ratios of up to 0.500 are above the 0.250 of an infinite cache of prompts")
    told = [row | {"output_length": 1} for row in rows]
    path.write_text("\n".join(map(json.dumps, told)))
    document = planned(path, "-f", manifest(), "--jobs", 1, "--option", "max_evaluations=8")
    assert document["chosen"]["prefix_hit_ratio"] == 1 / 4
    assert not [note for note in document["notes"] if "infinite" in note]
