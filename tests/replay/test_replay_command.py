import json
import os
import pty
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvtide_operator.cli.replay import command

PLAY = [Path(sysconfig.get_path("scripts"), "kvtide"), "replay"]


def write_trace(path: Path, requests: list[list[int]], interval_ms: int = 0) -> Path:
    lines = [
        json.dumps(
            {
                "timestamp": index * interval_ms,
                "input_length": len(blocks) * 512,
                "output_length": 9,
                "hash_ids": blocks,
            }
        )
        for index, blocks in enumerate(requests)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.jsonl", [[0, 1, 2], [0, 1, 3], [0, 1, 2]])


def play(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_json(start_redis, trace_file: Path) -> None:
    result = play(trace_file, "--target", f"redis://127.0.0.1:{start_redis().port}", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["requests"] == 3
    assert report["blocks_requested"] == 9
    assert report["blocks_looked_up"] == 1 + 3 + 3
    assert report["blocks_hit"] == 2 + 3
    assert report["prefix_hit_ratio"] == 5 / 9
    assert report["errors"] == report["wrong_bytes"] == 0
    assert {"get_gb_s", "set_gb_s", "get_p50_ms", "get_p99_ms", "set_p99_ms", "exists_p99_ms"} <= set(report)


def test_text_limit_and_block_bytes(start_redis, trace_file: Path) -> None:
    server = start_redis()
    result = play(
        trace_file, "--target", f"redis://127.0.0.1:{server.port}", "--limit", 2, "--block-bytes", "1Ki"
    )
    assert result.exit_code == 0
    assert "6 requested, 4 looked up, 2 hit" in result.stdout
    assert "prefix hit ratio  0.333" in result.stdout
    with server.client() as client:
        assert client.dbsize() == 4
        assert client.strlen("kvt:replay:3") == 1024


def test_a_token_takes_the_same_bytes_whatever_a_block_is(start_redis, tmp_path: Path) -> None:
    server = start_redis()
    row = {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [7, 8, 9]}
    file = tmp_path / "small.jsonl"
    file.write_text(json.dumps(row))
    assert play(file, "--target", f"redis://127.0.0.1:{server.port}").exit_code == 0
    with server.client() as client:
        assert client.strlen("kvt:replay:7") == 16 * 128


def test_wrong_bytes_are_a_failure(start_redis, trace_file: Path) -> None:
    server = start_redis()
    with server.client() as client:
        client.set("kvt:replay:0", "x")
    result = play(trace_file, "--target", f"redis://127.0.0.1:{server.port}", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["wrong_bytes"] == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--target", "redis://127.0.0.1:1"],
            "127.0.0.1:1: no connection: Connection refused; start the server",
        ),
        (["--target", "nonsense"], "'nonsense' is not the address of a target; write for example redis://"),
        (["--target", "redis://a:1", "--block-bytes", "many"], "--block-bytes: 'many' is not a quantity"),
        (
            ["--target", "redis://a:1", "--block-bytes", "1"],
            "--block-bytes 1 is no length that a block can have",
        ),
        (["--target", "redis://a:1", "--speed", "0"], "--speed 0 is no pace; give a number above 0"),
        (["--target", "redis://a:1", "--speed", "nan"], "--speed nan is no pace"),
    ],
)
def test_a_mistake_is_one_sentence(trace_file: Path, arguments: list[str], sentence: str) -> None:
    result = play(trace_file, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


def test_a_missing_trace_and_a_bad_line_are_one_sentence(tmp_path: Path) -> None:
    missing = play(tmp_path / "none.jsonl", "--target", "redis://127.0.0.1:1")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "none.jsonl" in missing.stderr
    bad = write_trace(tmp_path / "bad.jsonl", [[1], [2]])
    bad.write_text(bad.read_text() + "{\n")
    result = play(bad, "--target", "redis://127.0.0.1:1")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "bad.jsonl:3" in result.stderr


def test_a_long_replay_draws_a_bar_on_a_terminal_and_ends_on_ctrl_c(start_redis, tmp_path: Path) -> None:
    slow = write_trace(tmp_path / "slow.jsonl", [[number] for number in range(1000)], interval_ms=100)
    terminal, stderr = pty.openpty()
    target = f"redis://127.0.0.1:{start_redis().port}"
    with subprocess.Popen([*PLAY, slow, "--target", target, "--speed", "1"], stderr=stderr) as process:
        os.close(stderr)
        drawn, interrupted = b"", False
        try:
            while piece := os.read(terminal, 4096):
                drawn += piece
                if b"/1000" in drawn and not interrupted:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        except OSError:  # EIO: nobody holds the other end any more
            assert process.wait(120) == 130
        finally:
            os.close(terminal)
            process.kill()
    assert b"hit ratio 0.000, 0 errors" in drawn
    assert b"Traceback" not in drawn
