"""`kvtide plan` on a recorded history, and its judgement by the period that follows."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from kvtide_operator.cli.plan import command
from kvtide_operator.history.recorded import RecordedHistory
from kvtide_operator.workload.readers.mooncake import parse
from kvtide_operator.workload.readers.text import TraceText

EXAMPLE = Path(__file__).parents[2] / "examples" / "kareto.yaml"
HOUR_S, WEEK_H = 3600.0, 7 * 24
MONDAY_S = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
COMPILE_TIMEOUT_S = 240
"""The first test to run the engines compiles them: about 20 s on an idle core, longer on a busy one."""

pytestmark = pytest.mark.timeout(COMPILE_TIMEOUT_S)


def lines(conversations: int, seed: int) -> bytes:
    """Conversations of four turns in ten minutes; those of one seed share no block with another's."""
    random, rows, fresh = np.random.default_rng(seed), [], seed * 100_000
    for _ in range(conversations):
        start_s, blocks = random.uniform(0, 400), []
        for turn in range(4):
            blocks = [*blocks, *range(fresh, fresh + 6)]
            fresh += 6
            at_ms = int(1000 * (start_s + turn * random.uniform(20, 60)))
            rows.append((at_ms, 512 * len(blocks), blocks))
    return "\n".join(
        json.dumps({"timestamp": at, "input_length": tokens, "output_length": 50, "hash_ids": ids})
        for at, tokens, ids in sorted(rows)
    ).encode()


def record(url: str, hours: dict[int, int]) -> None:
    """Periods by hour since Monday, each of so many conversations of its own."""
    history = RecordedHistory(url)
    for n, conversations in hours.items():
        start_s = MONDAY_S + n * HOUR_S
        trace = parse(TraceText("generated", lines(conversations, seed=n + 1)), None)
        history.write(replace(trace, started_at_s=start_s + 1), start_s, start_s + HOUR_S)


@pytest.fixture
def manifest(tmp_path):
    """The example for one engine with a small GPU cache."""
    documents = list(yaml.safe_load_all(EXAMPLE.read_text("utf-8")))
    spec = documents[0]["spec"]
    spec["engine"] |= {"instances": 1, "gpuCache": "1Gi"}
    spec["tiers"][0]["capacity"] = {"initial": "16Gi", "min": "1Gi", "max": "64Gi", "step": "1Gi"}
    spec["tiers"][1]["classes"] = ["local-nvme"]
    spec["objective"] = {"prefer": "Latency"}
    path = tmp_path / "cache.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


@pytest.fixture
def history(tmp_path):
    return f"file://{tmp_path}/history"


def run(*arguments):
    few = ["--jobs", "1", "--option", "max_evaluations=9"]
    return CliRunner().invoke(command, [*map(str, arguments), *few], catch_exceptions=False)


def planned(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_plan_is_made_on_the_same_slot_of_last_week(history, manifest):
    record(history, {0: 5, 1: 9, WEEK_H - 1: 3})
    document = planned(history, "-f", manifest, "--at", "2026-11-23T01:00:00Z")
    assert document["notes"][0] == (
        "planned on the same slot of the week before, 2026-11-16T01:00:00Z to 2026-11-16T02:00:00Z, "
        "for 2026-11-23T01:00:00Z"
    )


@pytest.mark.parametrize("hours", [{WEEK_H - 3: 5, WEEK_H - 1: 3}, {0: 4, WEEK_H: 3}])
def test_without_that_slot_it_is_made_on_the_time_before(history, manifest, hours):
    record(history, hours)
    document = planned(history, "-f", manifest)
    assert document["notes"][0].startswith("planned on the time before, ")


def test_an_hour_that_repeats_last_week_s_is_planned_without_regret(history, manifest):
    record(history, {0: 6})
    again = RecordedHistory(history)
    trace = again.read(MONDAY_S, MONDAY_S + HOUR_S)
    start_s = MONDAY_S + WEEK_H * HOUR_S
    again.write(replace(trace, started_at_s=start_s + 1), start_s, start_s + HOUR_S)
    document = planned(history, "-f", manifest, "--evaluate-next")
    regret = document["regret"]
    assert regret["requests"] == 24
    assert regret["chosen"] == regret["optimum"] == document["chosen"]
    assert [regret[name] for name in ("storage_cost_per_hour", "cost_per_hour", "ttft_mean_s")] == [0, 0, 0]
    assert regret["broken"] == []


def test_a_file_is_planned_on_its_first_half_and_judged_by_its_second(tmp_path, manifest):
    """Cold conversations first, many at once then: the plan is too lean, and the regret says by how much."""
    path = tmp_path / "trace.jsonl"
    quiet = [json.loads(line) for line in lines(4, seed=1).splitlines()]
    busy = [json.loads(line) for line in lines(40, seed=2).splitlines()]
    rows = quiet + [row | {"timestamp": row["timestamp"] + 700_000} for row in busy]
    path.write_text("\n".join(map(json.dumps, rows)))
    document = planned(path, "-f", manifest, "--evaluate-next")
    regret, chosen, optimum = document["regret"], document["regret"]["chosen"], document["regret"]["optimum"]
    assert document["notes"][0] == "planned on the first half of trace.jsonl"
    assert regret["requests"] > 100
    assert chosen["dram_gib"] == document["chosen"]["dram_gib"]
    assert optimum["ttft_mean_s"] <= chosen["ttft_mean_s"]
    assert regret["ttft_mean_s"] == pytest.approx(chosen["ttft_mean_s"] - optimum["ttft_mean_s"])
    assert regret["cost_per_hour"] == pytest.approx(chosen["cost_per_hour"] - optimum["cost_per_hour"])
    shown = run(path, "-f", manifest, "--evaluate-next")
    assert f"on the following period ({regret['requests']:,} requests): mean TTFT" in shown.stdout
    assert "regret" not in planned(path, "-f", manifest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "noon"], "--at noon: write a time such as 2026-11-21T13:00:00Z"),
        (["--period", "0s"], "--period 0s: give more than 0s"),
        (["--period", "soon"], "--period: 'soon' is not a duration"),
        (["--at", "2026-11-16T00:00:00"], "there is nothing before 2026-11-16T00:00:00Z to plan on"),
        (["--at", "2027-01-01T00:00:00Z"], "there are no requests (the history lacks 3,600 s"),
        (["--evaluate-next"], "there is nothing before 2026-11-16T00:00:00Z to plan on"),
        (["--evaluate-next", "--groups", "2"], "--evaluate-next judges plans with one TTL"),
    ],
)
def test_a_mistake_about_a_history_ends_in_one_sentence(history, manifest, arguments, message):
    record(history, {0: 3})
    result = run(history, "-f", manifest, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("trace.jsonl", ["--at", "2026-11-16"], "trace.jsonl is no history; give its folder or URL"),
        ("trace.jsonl", ["--evaluate-next"], "has no requests in one of its halves"),
        ("", [], "there is no period of a history that can be read"),
    ],
)
def test_a_mistake_about_a_source_ends_in_one_sentence(tmp_path, manifest, name, option, message):
    line = {"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1]}
    (tmp_path / "trace.jsonl").write_text(json.dumps(line))
    result = run(tmp_path / name, "-f", manifest, *option)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
