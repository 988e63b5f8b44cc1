"""How commands end: exit codes, files that cannot be written, Ctrl-C, readers that go away."""

import json
import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kvtide_cachenode.cli import main as node_main
from kvtide_operator.cli import COMMANDS, main
from kvtide_operator.main import main as operator_main

SCRIPTS = Path(sysconfig.get_path("scripts"))
KVTIDE = SCRIPTS / "kvtide"
KARETO = Path(__file__).parents[2] / "examples" / "kareto.yaml"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [
        {"timestamp": 1000 * turn, "input_length": 512 * 4, "output_length": 9, "hash_ids": [1, 2, 3, 4]}
        for turn in range(20)
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def said(*arguments: object, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [KVTIDE, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["plan", "no.jsonl", "-f", "no.yaml", "--report", "FILE"], "--report"),
        (["curve", "no.jsonl", "--plot", "FILE"], "--plot"),
        (["demo", "--trace", "no.jsonl", "--report", "FILE"], "--report"),
        (["trace", "generate", "-o", "FILE"], "-o"),
        (["trace", "record", "--kv-events", "tcp://127.0.0.1:1", "-o", "FILE"], "-o"),
        (["engine", "calibrate", "http://127.0.0.1:1", "-o", "FILE"], "-o"),
        (["engine", "validate", "http://h:1", "--node", "http://h:2", "--texts", "no", "-o", "FILE"], "-o"),
        (["engine", "profile", "--model", "m", "--system", "s", "--engine", "vllm", "-o", "FILE"], "-o"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_said_before_anything_else(
    tmp_path: Path, arguments: list[str], option: str
) -> None:
    file = str(tmp_path / "no" / "such" / "file.svg")
    result = CliRunner().invoke(main, [file if word == "FILE" else word for word in arguments])
    assert result.exit_code == 2
    assert result.stderr == f"Error: {option} {file}: No such file or directory; write elsewhere\n"


def test_the_check_leaves_nothing_and_takes_nothing(tmp_path: Path, trace: Path) -> None:
    new, old = tmp_path / "new.svg", tmp_path / "old.svg"
    old.write_text("kept")
    for file in (new, old):
        result = CliRunner().invoke(main, ["curve", str(tmp_path / "no.jsonl"), "--plot", str(file)])
        assert result.exit_code == 2
    assert not new.exists()
    assert old.read_text() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_results_come_before_a_file_for_which_there_is_no_room(trace: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    plot.symlink_to("/dev/full")
    done = said("curve", trace, "--plot", plot, "--json", code=1)
    assert json.loads(done.stdout)["blocks"] == 80
    assert f"--plot {plot}: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_standard_output_without_room_is_one_sentence(trace: Path) -> None:
    for command in (["curve", trace, "--json"], ["trace", "generate"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run([KVTIDE, *command], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert done.stderr.endswith(b"the output cannot be written: No space left on device\n")
        assert b"Traceback" not in done.stderr


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    fifo = tmp_path / "trace.jsonl"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [KVTIDE, "curve", fifo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        writer = os.open(fifo, os.O_WRONLY)  # returns when the command reads
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        os.close(writer)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_a_reader_that_goes_away_ends_a_command_in_silence() -> None:
    with subprocess.Popen(
        [KVTIDE, "trace", "generate", "--requests", "20000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(120) == 1


def test_an_objective_that_no_size_keeps_has_an_exit_code_of_its_own(trace: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "cache.yaml"
    text = KARETO.read_text()
    assert "{p99: 10s}" in text
    wanted.write_text(text.replace("{p99: 10s}", "{p99: 1ms}"))
    done = said("plan", trace, "-f", wanted, "--option", "max_evaluations=8", "--jobs", 1, code=3)
    assert "infeasible: no size reaches a TTFT p99 of 0.001 s, best " in done.stdout
    assert "chosen" in done.stdout


def commands(group: click.Command, name: str) -> dict[str, click.Command]:
    if not isinstance(group, click.Group):
        return {name: group}
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        found |= commands(command, f"{name} {each}")
    return found


ALL = (
    commands(main, "kvtide") | commands(node_main, "kvtide-node") | commands(operator_main, "kvtide-operator")
)
MEANINGS = {
    "-f": "manifest_file", "--file": "manifest_file", "-o": "output", "--output": "output",
    "--json": "as_json", "--seed": "seed", "--report": ("report", "report_file"), "--trace": "trace_file",
}  # fmt: skip


def test_the_same_option_is_the_same_thing_everywhere() -> None:
    assert len(ALL) > len(COMMANDS)
    for name, command in ALL.items():
        for parameter in command.params:
            for option in parameter.opts:
                if option in MEANINGS:
                    assert parameter.name in MEANINGS[option], f"{name} {option}"
        spelled = {option for parameter in command.params for option in parameter.opts}
        for short, long in (("-f", "--file"), ("-o", "--output")):
            assert (short in spelled) == (long in spelled), name
        assert command.get_short_help_str(), name
