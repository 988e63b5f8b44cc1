"""A trace that does not say which blocks its requests share is refused at once, by every command alike."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvtide_operator.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n2.0,396,109\n"
SENTENCE = "the trace has no block ids, so nothing can be said of hits; give one with hash_ids"
KARETO, LOCAL = str(EXAMPLES / "kareto.yaml"), str(EXAMPLES / "local.yaml")


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "conv.csv"
    file.write_text(ROWS)
    return str(file)


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "TRACE", "-f", KARETO],
        ["plan", "TRACE", "-f", KARETO, "--evaluate-next"],
        ["simulate", "TRACE", "-f", KARETO],
        ["curve", "TRACE"],
        ["replay", "TRACE", "--target", "redis://127.0.0.1:1"],
        ["demo", "--trace", "TRACE"],
        ["up", "-f", LOCAL, "--trace", "TRACE"],
    ],
    ids=lambda command: " ".join(word for word in command if "/" not in word),
)
def test_every_command_refuses_it_in_the_same_words(trace: str, command: list[str]) -> None:
    result = CliRunner().invoke(main, [trace if word == "TRACE" else word for word in command])
    assert result.exit_code == 2, result.output
    assert f"conv.csv: {SENTENCE}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_trace_info_says_so(trace: str) -> None:
    result = CliRunner().invoke(main, ["trace", "info", trace, "--json"])
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["requests"], said["blocks"]) == (2, 0)
    assert any(SENTENCE in note for note in said["notes"])
