"""`kvtide trace` writes what the readers read."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kvtide_operator.cli.trace import command
from kvtide_operator.workload.generate import generate
from kvtide_operator.workload.readers import read_trace


def test_a_generated_file_reads_back_as_the_same_trace(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    options = ["--requests", "300", "--seed", "5", "--shape", "hill", "--block-tokens", "512"]
    result = CliRunner().invoke(command, ["generate", *options, "-o", str(file)])
    assert result.exit_code == 0, result.output
    read, made = read_trace(file), generate(requests=300, seed=5, shape="hill")
    assert np.array_equal(read.blocks, made.blocks)
    assert np.array_equal(read.block_ids, made.block_ids)
    assert np.array_equal(read.input_tokens, made.input_tokens)
    assert np.array_equal(read.output_tokens, made.output_tokens)
    assert read.arrival_s == pytest.approx(made.arrival_s, abs=0.00051)


def test_without_a_file_it_goes_to_standard_output() -> None:
    result = CliRunner().invoke(command, ["generate", "--duration", "30s", "--profile", "api"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert 200 < len(rows) < 700
    assert rows[-1]["timestamp"] < 30_000


def test_info_tells_what_is_in_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}\n'
        '{"timestamp": 9000, "input_length": 1500, "output_length": 1, "hash_ids": [1, 2, 3]}\n'
    )
    result = CliRunner().invoke(command, ["info", str(file), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert (said["requests"], said["blocks"], said["unique_blocks"], said["span_s"]) == (2, 5, 3, 9.0)
    assert said["hit_ratio_infinite"] == 0.4
    assert said["reuse_gap_s"]["p50"] == 9.0
    assert said["hit_ratio_observed"] is None
    text = CliRunner().invoke(command, ["info", str(file)])
    assert text.exit_code == 0, text.output
    assert "hit ratio infinite" in text.output


def test_info_tells_hits_of_engines_and_of_nodes_apart(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rest = '"output_length": 1, "observed_at": "engine", "weight": 1, "boot_id": "b"'
    file.write_text(
        '{"timestamp": 0, "input_length": 32, "hash_ids": [1, 2], "seq": 0, "hit_blocks": 0,'
        f' "local_hit_blocks": 0, {rest}}}\n'
        '{"timestamp": 9, "input_length": 48, "hash_ids": [1, 2, 3], "seq": 1, "hit_blocks": 2,'
        f' "local_hit_blocks": 1, {rest}}}\n'
    )
    result = CliRunner().invoke(command, ["info", str(file), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    names = ("hit_ratio_observed", "hit_ratio_of_engines", "hit_ratio_of_nodes")
    assert [said[name] for name in names] == [0.4, 0.2, 0.2]
    # A line of an older engine says only how many there were.
    with file.open("a") as more:
        more.write(
            f'{{"timestamp": 20, "input_length": 1, "hash_ids": [9], "seq": 2, "hit_blocks": 0, {rest}}}\n'
        )
    said = json.loads(CliRunner().invoke(command, ["info", str(file), "--json"]).output)
    assert [said[name] for name in names] == [0.3333, None, None]
    file.write_text(file.read_text().replace('"local_hit_blocks": 1', '"local_hit_blocks": 3'))
    result = CliRunner().invoke(command, ["info", str(file)])
    assert result.exit_code == 2
    assert f"{file}:2: local_hit_blocks are more than hit_blocks" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "no.jsonl"], "no.jsonl: No such file or directory"),
        (["generate", "--duration", "soon"], "'soon' is not a duration"),
        (["generate", "--requests", "0"], "0 requests are out of range"),
        (
            ["generate", "--requests", "9", "--duration", "1h"],
            "either the number of requests or the duration",
        ),
        (
            ["generate", "--requests", "9", "-o", "no/such/file"],
            "-o no/such/file: No such file or directory; write elsewhere",
        ),
        (["generate", "--profile", "none"], "'none' is not one of 'chat', 'api'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert sentence in result.output
